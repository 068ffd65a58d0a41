// Text in, tokens out: how a model cuts what it reads.
import { useEffect, useState } from "preact/hooks";
import { tokenize } from "../api.js";
import { askForKey } from "../actions.js";
import { explain } from "../failures.js";
import { currentModel, setSettings, useApp } from "../state.js";
import { isSpecial } from "../tokens.js";
import { t } from "../words.js";
import { GrowingText, ModelPicker, useDraft } from "./composer.js";
import { Choice } from "./choice.js";
import { classes, html } from "./html.js";
import { Failure } from "./message.js";
import { Pieces } from "./tokens.js";

const WAIT_MS = 180;
const MOST = 3000;
const NONE = { tokens: [], count: 0, failure: null };
const utf8 = new TextEncoder();

/** Tokens of the text as it stands; a request that a later one has overtaken is dropped. */
function useTokens(model, text, asQuestion) {
  const [state, setState] = useState(NONE);
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    if (!model || !text) {
      setState(NONE);
      return undefined;
    }
    const controller = new AbortController();
    const timer = setTimeout(async () => {
      try {
        setState({ ...(await tokenize(model, text, { asQuestion, signal: controller.signal })), failure: null });
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
  }, [model, text, asQuestion, attempt]);
  return state;
}

export function Tokenizer() {
  const model = useApp(currentModel);
  const [text, setText] = useDraft("tokens");
  const asQuestion = useApp((state) => state.settings.tokensAs === "question");
  const { tokens, count, failure } = useTokens(model, text, asQuestion);
  const characters = Array.from(text).length;
  const bytes = utf8.encode(text).length;
  const facts = [
    [t("tokens.count"), count],
    [t("tokens.characters"), characters],
    [t("tokens.bytes"), bytes],
    // With the template's own tokens among them these would say nothing of the tokenizer.
    ...(asQuestion ? [] : [
      [t("tokens.perchar"), count ? (characters / count).toFixed(2) : "–"],
      [t("tokens.perbyte"), count ? (bytes / count).toFixed(2) : "–"],
    ]),
  ];
  return html`
    <div class="tokenizer">
      <div class="scroll" tabindex="-1">
        <div class="tokenizer-body">
          <h1 class="visually-hidden">${t("view.tokens")}</h1>
          <p class="lead">${t("tokens.lead")}</p>
          <div class="composer">
            <${GrowingText} value=${text} onValue=${setText} rows="4" placeholder=${t("tokens.write")} aria-label=${t("tokens.write")} />
            <div class="composer-bar">
              <${ModelPicker} value=${model} onChange=${(id) => setSettings({ model: id })} />
              <${Choice} name="tokensAs" label=${t("tokens.as")} options=${[{ is: "text", text: t("tokens.as.text") }, { is: "question", text: t("tokens.as.question"), title: t("tokens.as.question.help") }]} />
              <span class="spring"></span>
              <button type="button" onClick=${() => setText(t("tokens.sample"))}>${t("tokens.example")}</button>
            </div>
          </div>
          <dl class="measures wide" aria-live="polite">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
          ${failure && html`<${Failure} failure=${failure} />`}
          <ol class="chips" aria-label=${t("tokens.list")}>
            ${tokens.slice(0, MOST).map(
              ({ id, t: piece, b, whole }, i) => html`
                <li key=${i} class=${classes("chip", `c${i % 5}`, isSpecial(piece) && "special")}><bdi><${Pieces} text=${piece} bytes=${b} whole=${whole} spaces /></bdi><span class="id">${id}</span></li>
              `,
            )}
          </ol>
          ${tokens.length > MOST && html`<p class="note">${t("tokens.more", { n: tokens.length - MOST })}</p>`}
        </div>
      </div>
    </div>
  `;
}
