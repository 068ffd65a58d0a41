// What the page knows, and what of it is kept between visits.
import { createStore, kept, useStore } from "./store.js";
import { preferredLanguage, setLanguage } from "./words.js";

export const DEFAULTS = {
  language: "auto",
  theme: "auto",
  model: "",
  think: false,
  alternatives: 8,
  tokensAs: "text", // text | question
  mode: "auto", // auto | chat | text
  system: "",
  sampling: {},
};

const settings = { ...DEFAULTS, ...kept.read("settings", {}) };

function keptComparison() {
  const { asked = "", panes = [{}, {}] } = kept.read("compare", {});
  return { asked, panes: panes.map((pane) => ({ model: "", ...pane, ...(asked && { text: pane.text ?? "", tokens: [], prefix: 0 }) })) };
}

export const app = createStore({
  view: ["chat", "compare", "tokens"].includes(location.hash.slice(1)) ? location.hash.slice(1) : "chat",
  settings,
  models: [],
  modelsState: "loading", // loading | ready | failed
  modelsFailure: null,
  summaries: [], // {id, title, updated}, newest first
  conversations: {}, // those opened since the page was loaded
  current: null, // id of the one shown; null: a new one
  running: {}, // conversation id: {node, controller}
  editing: null, // id of the question being edited
  textOnly: kept.read("textOnly", {}), // models that have no chat template
  compare: keptComparison(),
  panel: false,
  drawer: false,
  dialog: null, // "key" | "shortcuts" | "clear"
  toast: null, // {text, action, act}
  spoken: [], // what the screen reader is to say: [{id, text}]
});

export const useApp = (select) => useStore(app, select);

export function setSettings(patch) {
  app.set((state) => ({ settings: { ...state.settings, ...patch } }));
  kept.write("settings", app.get().settings);
  applyLook();
}

/** Language and theme onto the document. */
export function applyLook() {
  const { language, theme } = app.get().settings;
  const code = language === "auto" ? preferredLanguage() : language;
  setLanguage(code);
  document.documentElement.lang = code === "zh" ? "zh-Hans" : "en";
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export function setView(view) {
  app.set({ view, drawer: false });
  window.history.replaceState(null, "", `#${view}`);
}

let toastTimer = 0;
export function toast(text, action = null, act = null) {
  clearTimeout(toastTimer);
  app.set({ toast: { text, action, act } });
  toastTimer = setTimeout(() => app.set({ toast: null }), action ? 10_000 : 4000);
}

let spokenId = 0;
/** Says each thing once: pieces are added to a polite live region, none is said again. */
export function speak(text) {
  if (text.trim()) app.set((state) => ({ spoken: [...state.spoken.slice(-20), { id: ++spokenId, text }] }));
}

/** The model that answers: the chosen one if the server still has it, else the first. */
export function currentModel(state = app.get()) {
  const ids = state.models.map((model) => model.id);
  return ids.includes(state.settings.model) ? state.settings.model : (ids[0] ?? "");
}

export const facts = (model, state = app.get()) => state.models.find((one) => one.id === model) ?? {};

/** Whether a model is spoken to in turns or continues a text: as the user wants, else as it was taught. */
export function modeOf(model, state = app.get()) {
  if (state.textOnly[model]) return "text";
  if (state.settings.mode !== "auto") return state.settings.mode;
  return facts(model, state).instruction_tuned === false ? "text" : "chat";
}
