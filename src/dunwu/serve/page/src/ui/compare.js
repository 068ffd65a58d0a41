// Two models, or two stages of one build, side by side on one prompt.
import { compare, continuePane, setPane, stopCompare } from "../actions.js";
import { useApp } from "../state.js";
import { t } from "../words.js";
import { useFollow } from "./chat.js";
import { Composer, ModelPicker } from "./composer.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";
import { AnswerBody, Failure, speedLine } from "./message.js";
import { Legend, Measures } from "./tokens.js";

function Pane({ i }) {
  const pane = useApp((state) => state.compare.panes[i]);
  const asked = useApp((state) => state.compare.asked);
  const think = useApp((state) => state.settings.think);
  const started = pane.tokens !== undefined;
  return html`
    <section class="pane" aria-label=${`${t(i ? "compare.right" : "compare.left")}: ${pane.model}`}>
      <div class="pane-head">
        <${ModelPicker} value=${pane.model} label=${t(i ? "compare.right" : "compare.left")} onChange=${(model) => setPane(i, { model })} />
        <span class="facts">${started && !pane.running ? speedLine(pane) : pane.mode === "text" && started ? t("continues") : ""}</span>
      </div>
      <div class=${`answer${pane.running ? " live" : ""}`} aria-busy=${Boolean(pane.running)}>
        ${started && html`<${AnswerBody} node=${pane} live=${Boolean(pane.running)} given=${asked} onContinue=${(at, alternative) => continuePane(i, at, alternative)} />`}
        ${pane.running && !pane.text && html`<p class="waiting"><span></span><span></span><span></span></p>`}
        ${pane.error && html`<${Failure} failure=${pane.error} />`}
        ${started && think && !pane.running && html`<${Measures} tokens=${pane.tokens} prefix=${pane.prefix} />`}
      </div>
    </section>
  `;
}

export function Compare() {
  const asked = useApp((state) => state.compare.asked);
  const running = useApp((state) => state.compare.panes.some((pane) => pane.running));
  const think = useApp((state) => state.settings.think);
  const { box, onScroll, toEnd, away } = useFollow(0, asked);
  return html`
    <div class="compare">
      <div class="scroll" ref=${box} onScroll=${onScroll} tabindex="-1">
        <div class="compare-body">
          <h1 class="visually-hidden">${t("view.compare")}</h1>
          ${asked
            ? html`<article class="question" aria-label=${t("you")}><div class="bubble" dir="auto">${asked}</div></article>`
            : html`<p class="lead">${t("compare.lead")}</p>`}
          <div class="panes"><${Pane} i=${0} /><${Pane} i=${1} /></div>
          ${think && asked && html`<${Legend} />`}
        </div>
        <div class="dock">
          ${away && html`<${IconButton} icon="down" label=${t("toend")} class="to-end" onClick=${toEnd} />`}
          <${Composer} draft="compare" send=${compare} stop=${stopCompare} running=${running} placeholder=${t("compare.write")} picker=${false} />
        </div>
      </div>
    </div>
  `;
}
