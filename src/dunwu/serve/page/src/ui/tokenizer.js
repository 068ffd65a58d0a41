// Text in, tokens out: how a model cuts what it reads.
import { useEffect, useState } from "preact/hooks";
import { tokenize } from "../api.js";
import { askForKey } from "../actions.js";
import { explain } from "../failures.js";
import { currentModel, setSettings, useApp } from "../state.js";
import { t } from "../words.js";
import { GrowingText, ModelPicker, useDraft } from "./composer.js";
import { html } from "./html.js";
import { Failure } from "./message.js";
import { Pieces } from "./tokens.js";

const WAIT_MS = 180;
const MOST = 3000;
const utf8 = new TextEncoder();

/** Tokens of the text as it stands; a request that a later one has overtaken is dropped. */
function useTokens(model, text) {
  const [state, setState] = useState({ ids: [], texts: [], count: 0, failure: null });
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    if (!model || !text) {
      setState({ ids: [], texts: [], count: 0, failure: null });
      return undefined;
    }
    const controller = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const result = await tokenize(model, text, controller.signal);
        setState({ ...result, failure: null });
      } catch (error) {
        if (controller.signal.aborted) return;
        const failure = explain(error);
        setState((before) => ({ ...before, failure }));
        if (failure.key) askForKey(() => setAttempt((n) => n + 1));
      }
    }, WAIT_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [model, text, attempt]);
  return state;
}

export function Tokenizer() {
  const model = useApp(currentModel);
  const [text, setText] = useDraft("tokens");
  const { ids, texts, count, failure } = useTokens(model, text);
  const characters = Array.from(text).length;
  const bytes = utf8.encode(text).length;
  const facts = [
    [t("tokens.count"), count],
    [t("tokens.characters"), characters],
    [t("tokens.bytes"), bytes],
    [t("tokens.perchar"), count ? (characters / count).toFixed(2) : "–"],
    [t("tokens.perbyte"), count ? (bytes / count).toFixed(2) : "–"],
  ];
  return html`
    <div class="tokenizer">
      <div class="scroll" tabindex="-1">
        <div class="tokenizer-body">
          <p class="lead">${t("tokens.lead")}</p>
          <div class="composer">
            <${GrowingText} value=${text} onValue=${setText} rows="4" placeholder=${t("tokens.write")} aria-label=${t("tokens.write")} />
            <div class="composer-bar">
              <${ModelPicker} value=${model} onChange=${(id) => setSettings({ model: id })} />
              <span class="spring"></span>
              <button type="button" onClick=${() => setText(t("tokens.sample"))}>${t("tokens.example")}</button>
            </div>
          </div>
          <dl class="measures wide" aria-live="polite">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
          ${failure && html`<${Failure} failure=${failure} />`}
          <ol class="chips" aria-label=${t("tokens.list")}>
            ${ids.slice(0, MOST).map(
              (id, i) => html`<li key=${i} class=${`chip c${i % 5}`}><bdi><${Pieces} text=${texts?.[i] ?? `#${id}`} spaces /></bdi><span class="id">${id}</span></li>`,
            )}
          </ol>
          ${ids.length > MOST && html`<p class="note">${t("tokens.more", { n: ids.length - MOST })}</p>`}
        </div>
      </div>
    </div>
  `;
}
