// What a person can do to conversations.
import { key, listModels } from "./api.js";
import { explain } from "./failures.js";
import { exported, history, imported } from "./history.js";
import { answer } from "./run.js";
import { app, currentModel, facts, setSettings, speak, toast } from "./state.js";
import { kept, newId } from "./store.js";
import { prefixText } from "./tokens.js";
import { add, ancestry, change, choose, newAnswer, newConversation, newQuestion, siblings, title } from "./tree.js";
import { t } from "./words.js";

const SAVE_MS = 1000;
const dirty = new Map();

export async function start() {
  await Promise.all([loadModels(), loadHistory()]);
}

export async function loadModels() {
  app.set({ modelsState: "loading" });
  try {
    takeModels(await listModels());
  } catch (error) {
    const failure = explain(error);
    app.set({ modelsState: "failed", modelsFailure: failure });
    if (failure.key) askForKey(loadModels);
  }
}

/** What a lazily read model turned out to be. */
async function refreshModels() {
  const models = await listModels().catch(() => null);
  if (models) takeModels(models);
}

function takeModels(models) {
  const known = Object.fromEntries(models.filter((model) => typeof model.chat === "boolean").map((model) => [model.id, !model.chat]));
  app.set((state) => ({
    models,
    modelsState: "ready",
    modelsFailure: null,
    textOnly: { ...state.textOnly, ...known },
    compare: { ...state.compare, panes: filledPanes(state.compare.panes, models) },
  }));
}

function filledPanes(panes, models) {
  const ids = models.map((model) => model.id);
  return panes.map((pane, i) => (ids.includes(pane.model) ? pane : { ...pane, model: ids[Math.min(i, ids.length - 1)] ?? "" }));
}

let afterKey = null;
export function askForKey(then) {
  afterKey = then;
  app.set({ dialog: "key" });
}

export function forgetKey() {
  key.write(null, false);
  toast(t("key.forgotten"));
}

export function giveKey(value, remember) {
  key.write(value, remember);
  app.set({ dialog: null });
  const then = afterKey;
  afterKey = null;
  if (app.get().modelsState !== "ready") loadModels();
  if (then && then !== loadModels) then();
}

// ── history ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const summary = ({ id, title, updated }) => ({ id, title, updated });

async function loadHistory() {
  const all = await history.all();
  app.set({ summaries: all.map(summary) });
  const last = kept.read("current", null);
  if (last && all.some((one) => one.id === last)) app.set((state) => ({ current: last, conversations: { ...state.conversations, [last]: all.find((one) => one.id === last) } }));
}

function put(id, make) {
  app.set((state) => {
    const conversation = make(state.conversations[id]);
    const others = state.summaries.filter((one) => one.id !== id);
    return { conversations: { ...state.conversations, [id]: conversation }, summaries: [summary(conversation), ...others].sort((a, b) => b.updated - a.updated) };
  });
  if (!dirty.has(id)) dirty.set(id, setTimeout(() => save(id), SAVE_MS));
}

function save(id) {
  clearTimeout(dirty.get(id));
  dirty.delete(id);
  const conversation = app.get().conversations[id];
  if (conversation) history.save(conversation).catch(() => toast(t("history.full")));
}

/** What is not yet written, now: the page is about to go. */
export function saveAll() {
  for (const id of [...dirty.keys()]) save(id);
}

export async function openConversation(id) {
  if (!app.get().conversations[id]) {
    const found = (await history.all()).find((one) => one.id === id);
    if (!found) return;
    app.set((state) => ({ conversations: { ...state.conversations, [id]: found } }));
  }
  app.set({ current: id, view: "chat", drawer: false, editing: null });
  kept.write("current", id);
}

export function startNew() {
  app.set({ current: null, view: "chat", drawer: false, editing: null });
  kept.write("current", undefined);
}

export async function removeConversation(id) {
  stop(id);
  clearTimeout(dirty.get(id));
  dirty.delete(id);
  const { conversations, summaries, current } = app.get();
  const removed = conversations[id] ?? (await history.all()).find((one) => one.id === id);
  const { [id]: _, ...rest } = conversations;
  app.set({ conversations: rest, summaries: summaries.filter((one) => one.id !== id) });
  if (current === id) startNew();
  await history.remove(id);
  toast(t("history.deleted"), t("undo"), async () => {
    await history.save(removed);
    app.set((state) => ({ summaries: [summary(removed), ...state.summaries].sort((a, b) => b.updated - a.updated), conversations: { ...state.conversations, [id]: removed } }));
  });
}

export async function removeAll() {
  for (const id of Object.keys(app.get().running)) stop(id);
  for (const timer of dirty.values()) clearTimeout(timer);
  dirty.clear();
  app.set({ conversations: {}, summaries: [], dialog: null });
  startNew();
  await history.clear();
}

export async function exportAll() {
  saveAll();
  const url = URL.createObjectURL(new Blob([exported(await history.all())], { type: "application/json" }));
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = `dunwu-${new Date().toISOString().slice(0, 10)}.json`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export async function importFile(file) {
  try {
    const have = new Set((await history.all()).map((one) => one.id));
    const conversations = imported(await file.text());
    for (const one of conversations) await history.save(have.has(one.id) || !one.id ? { ...one, id: newId() } : one);
    app.set({ summaries: (await history.all()).map(summary) });
    toast(t("history.imported", { n: conversations.length }));
  } catch {
    toast(t("history.notours"));
  }
}

// ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────

export function send(text) {
  const state = app.get();
  const id = state.current ?? create();
  const conversation = app.get().conversations[id];
  const shown = pathEnd(conversation);
  askAnew(id, shown, text);
}

function create() {
  const conversation = newConversation();
  app.set((state) => ({ conversations: { ...state.conversations, [conversation.id]: conversation }, current: conversation.id }));
  kept.write("current", conversation.id);
  return conversation.id;
}

function pathEnd(conversation) {
  let id = null;
  for (let next = conversation.choice[""]; next; next = conversation.choice[next]) id = next;
  return id;
}

function askAnew(id, parent, text) {
  const question = newQuestion(parent, text);
  put(id, (conversation) => ({ ...add(conversation, question), title: conversation.title || title(text) }));
  save(id);
  begin(id, newAnswer(question.id, { model: currentModel() }));
}

/** Another question in the place of this one; the first stays, on its own branch. */
export function edit(id, nodeId, text) {
  app.set({ editing: null });
  askAnew(id, app.get().conversations[id].nodes[nodeId].parent, text);
}

/** Another answer to the same question; of one that said nothing (an error), in its place. */
export function retry(id, nodeId) {
  const node = app.get().conversations[id].nodes[nodeId];
  if (node.error && !node.text) {
    put(id, (conversation) => change(conversation, nodeId, { error: null, model: currentModel() }));
    generateInto(id, nodeId);
  } else {
    begin(id, newAnswer(node.parent, { model: currentModel() }));
  }
}

/** The answer as it was before token i, then another token, then on from there: a new branch. */
export function continueFrom(id, nodeId, i, alternative) {
  const node = app.get().conversations[id].nodes[nodeId];
  const text = prefixText(node.tokens, i, alternative);
  if (text === null) return;
  const [chosen, lp, bytes] = alternative;
  const tokens = [...node.tokens.slice(0, i), { t: chosen, lp, top: node.tokens[i].top, ...(bytes && { b: bytes }) }];
  begin(id, newAnswer(node.parent, { model: node.model, mode: node.mode, tokens, text }));
}

/** On from the end: of an answer that was cut short, stopped or lost. */
export function goOn(id, nodeId) {
  put(id, (conversation) => change(conversation, nodeId, { error: null, finish: null }));
  generateInto(id, nodeId);
}

function begin(id, node) {
  put(id, (conversation) => add(conversation, node));
  generateInto(id, node.id);
}

async function generateInto(id, nodeId) {
  stop(id);
  const { settings } = app.get();
  const conversation = app.get().conversations[id];
  const node = conversation.nodes[nodeId];
  const before = ancestry(conversation, node.parent);
  const controller = new AbortController();
  const model = node.model || currentModel();
  app.set((state) => ({ running: { ...state.running, [id]: { node: nodeId, controller } } }));
  speak(t("speak.answering"));
  const job = {
    model,
    messages: [
      ...(settings.system.trim() ? [{ role: "system", content: settings.system }] : []),
      ...before.map(({ role, text }) => ({ role, content: text })),
    ],
    prompt: before.map(({ text }) => text).join(""),
    sampling: settings.sampling,
    topLogprobs: settings.alternatives,
    signal: controller.signal,
  };
  const patchNode = (patch) => {
    if (app.get().conversations[id]) put(id, (now) => change(now, nodeId, patch));
  };
  const { error, ...result } = await answer(job, node, patchNode);
  patchNode(error ? { error: explain(error), finish: null } : { ...result, error: null });
  app.set((state) => {
    if (state.running[id]?.controller !== controller) return {};
    const { [id]: _, ...running } = state.running;
    return { running };
  });
  save(id);
  if (facts(model).loaded === false) refreshModels();
  speak(error ? explain(error).what : t("speak.done"));
  if (error && explain(error).key) askForKey(() => retry(id, nodeId));
}

export function stop(id = app.get().current) {
  app.get().running[id]?.controller.abort();
}

export function showBranch(id, node, step) {
  const ids = siblings(app.get().conversations[id], node);
  const next = ids[ids.indexOf(node.id) + step];
  if (next) put(id, (conversation) => choose(conversation, next));
}

// ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────

export const setPane = (i, patch) =>
  app.set(({ compare }) => ({ compare: { ...compare, panes: compare.panes.map((pane, at) => (at === i ? { ...pane, ...patch } : pane)) } }));

export function compare(text) {
  app.set((state) => ({ compare: { ...state.compare, asked: text } }));
  keepComparison();
  app.get().compare.panes.forEach((_, i) => fillPane(i, { text: "", tokens: [], thoughts: "" }));
}

// What was asked and answered, not each token's alternatives: the browser's small storage is enough for it.
function keepComparison() {
  const { asked, panes } = app.get().compare;
  kept.write("compare", { asked, panes: panes.map(({ model, text, mode, finish, count, seconds }) => ({ model, text, mode, finish, count, seconds })) });
}

export function continuePane(i, at, alternative) {
  const pane = app.get().compare.panes[i];
  const text = prefixText(pane.tokens, at, alternative);
  if (text === null) return;
  const [chosen, lp, bytes] = alternative;
  fillPane(i, { text, tokens: [...pane.tokens.slice(0, at), { t: chosen, lp, top: pane.tokens[at].top, ...(bytes && { b: bytes }) }], thoughts: "" });
}

async function fillPane(i, given) {
  const { settings, compare: { panes, asked } } = app.get();
  panes[i].controller?.abort();
  const controller = new AbortController();
  setPane(i, { ...given, prefix: given.tokens.length, controller, running: true, error: null, finish: null, seconds: null, count: null });
  const mine = () => app.get().compare.panes[i].controller === controller;
  const job = {
    model: panes[i].model,
    messages: [...(settings.system.trim() ? [{ role: "system", content: settings.system }] : []), { role: "user", content: asked }],
    prompt: asked,
    sampling: settings.sampling,
    topLogprobs: settings.alternatives,
    signal: controller.signal,
    silent: true, // two voices at once would be none; each is said when it is whole
  };
  const { error, ...result } = await answer(job, given, (patch) => mine() && setPane(i, patch));
  if (!mine()) return;
  setPane(i, { ...result, running: false, error: error ? explain(error) : null });
  keepComparison();
  speak(`${panes[i].model}: ${error ? explain(error).what : app.get().compare.panes[i].text}`);
  if (facts(panes[i].model).loaded === false) refreshModels();
  if (error && explain(error).key) askForKey(() => compare(asked));
}

export function stopCompare() {
  for (const pane of app.get().compare.panes) pane.controller?.abort();
}

export const toggleThink = () => setSettings({ think: !app.get().settings.think });
