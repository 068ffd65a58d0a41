// Each token tinted by its probability; hover, focus or a tap shows what else could have come.
import { memo } from "preact/compat";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { isSpecial, level, percent, plain, prefixText, probability, summary, visible, wholes } from "../tokens.js";
import { t } from "../words.js";
import { classes, html } from "./html.js";
import { Icon } from "./icons.js";

const RUN = 64; // tokens drawn together: a change elsewhere leaves them as they are
const SHOW_MS = 90;
const HIDE_MS = 250;

export const Pieces = ({ text, bytes, whole, spaces, breaks = false }) =>
  visible(text, { bytes, whole, spaces, breaks }).map((piece) => (piece.kind === "text" ? piece.text : html`<span class=${piece.kind}>${piece.text}</span>`));

const Run = memo(
  ({ tokens, wholes, from, active, prefix }) =>
    html`${tokens.map(({ t: text, lp, b }, at) => {
      const i = from + at;
      const step = level(lp);
      const space = /^ (?=\S)/.test(text) ? " " : ""; // left plain: words stand apart, and no tint hangs at a line's end
      return html`<bdi
        data-i=${i}
        role="button"
        aria-haspopup="dialog"
        tabindex=${i === active ? 0 : -1}
        aria-label=${`${plain(text, b).replace(/^·(?=.)/, "")} ${percent(lp)}`}
        class="tok"
        >${space}<span class=${classes("tint", step !== null && `p${step}`, i < prefix && "given", i === prefix - 1 && "picked")}
          ><${Pieces} text=${text.slice(space.length)} bytes=${b} whole=${wholes[i]} breaks /></span
      ></bdi>`;
    })}`,
  (a, b) => a.tokens.length === b.tokens.length && a.prefix === b.prefix && a.active === b.active && a.tokens[0] === b.tokens[0] && a.tokens.at(-1) === b.tokens.at(-1),
);

export function TokenView({ tokens, prefix = 0, label, onContinue }) {
  const box = useRef();
  const [active, setActive] = useState(0); // the one in the tab order
  const [shown, setShown] = useState(null); // the one whose alternatives are shown
  const pinned = useRef(false);
  const timer = useRef(0);

  const later = (ms, act) => {
    clearTimeout(timer.current);
    timer.current = setTimeout(act, ms);
  };
  const hide = () => {
    clearTimeout(timer.current);
    pinned.current = false;
    setShown(null);
  };
  const index = (event) => {
    const element = event.target.closest?.("[data-i]");
    return element && box.current.contains(element) ? Number(element.dataset.i) : null;
  };
  const focus = (i) => {
    const next = Math.max(0, Math.min(tokens.length - 1, i));
    setActive(next);
    setShown(next);
    box.current.querySelector(`[data-i="${next}"]`)?.focus();
  };
  const pin = (i, enter) => {
    clearTimeout(timer.current); // of a hover on the way here
    pinned.current = true;
    setActive(i);
    setShown(i);
    if (enter) requestAnimationFrame(() => box.current?.querySelector(".alternatives button:not(:disabled)")?.focus());
  };

  useEffect(() => {
    if (shown === null) return undefined;
    const outside = (event) => !box.current.contains(event.target) && hide();
    document.addEventListener("pointerdown", outside);
    return () => document.removeEventListener("pointerdown", outside);
  }, [shown === null]);
  useEffect(() => () => clearTimeout(timer.current), []);

  const onKeyDown = (event) => {
    if (event.key === "Escape" && shown !== null) {
      event.preventDefault();
      event.stopPropagation();
      const back = shown;
      hide();
      box.current.querySelector(`[data-i="${back}"]`)?.focus();
      setTimeout(hide);
      return;
    }
    const i = index(event);
    if (i === null) return;
    const moves = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tokens.length - 1, ArrowDown: neighbour(box.current, i, 1), ArrowUp: neighbour(box.current, i, -1) };
    if (event.key in moves) {
      event.preventDefault();
      focus(moves[event.key]);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      pin(i, true);
    }
  };

  const whole = wholes(tokens.map(({ b }) => b));
  const lines = linesOf(tokens).map(([from, end]) => {
    const runs = [];
    for (let at = from; at < end; at += RUN) {
      const part = tokens.slice(at, Math.min(end, at + RUN));
      runs.push(html`<${Run} key=${at} wholes=${whole} tokens=${part} from=${at} prefix=${prefix} active=${active >= at && active < at + part.length ? active : -1} />`);
    }
    return html`<div key=${from}>${runs}</div>`;
  });
  return html`
    <div
      class="token-view"
      ref=${box}
      onMouseMove=${(event) => {
        if (!event.movementX && !event.movementY) return; // the text moved below a mouse at rest
        const i = index(event);
        if (i !== null && !pinned.current) i === shown ? clearTimeout(timer.current) : later(SHOW_MS, () => setShown(i));
        else if (event.target.closest(".alternatives")) clearTimeout(timer.current);
      }}
      onMouseLeave=${() => !pinned.current && later(HIDE_MS, hide)}
      onClick=${(event) => {
        const i = index(event);
        if (i !== null && window.getSelection().isCollapsed) pin(i, false);
      }}
      onFocusIn=${(event) => {
        const i = index(event);
        if (i !== null && event.target.matches(":focus-visible")) {
          setActive(i);
          setShown(i);
        }
      }}
      onFocusOut=${(event) => event.relatedTarget && !box.current.contains(event.relatedTarget) && hide()}
      onKeyDown=${onKeyDown}
    >
      <div class="token-text" role="group" aria-label=${label} dir="auto">${lines}</div>
      ${shown !== null && tokens[shown] && html`<${Alternatives} box=${box} tokens=${tokens} i=${shown} onContinue=${onContinue} onClose=${hide} />`}
    </div>
  `;
}

/** [from, end) of the tokens of each line: lines are laid out one by one, so a long answer grows without laying out all of it. */
function linesOf(tokens) {
  const ends = tokens.flatMap(({ t: text }, i) => (text.endsWith("\n") ? [i + 1] : []));
  if (ends.at(-1) !== tokens.length) ends.push(tokens.length);
  return ends.map((end, i) => [ends[i - 1] ?? 0, end]);
}

/** The token above or below this one, as the lines lie on the screen. */
function neighbour(box, i, direction) {
  const all = [...box.querySelectorAll("[data-i]")];
  const here = all[i].getBoundingClientRect();
  const middle = here.left + here.width / 2;
  let best = i;
  let line = null;
  let distance = Infinity;
  for (let at = i + direction; all[at]; at += direction) {
    const rect = all[at].getBoundingClientRect();
    if (Math.abs(rect.top - here.top) < rect.height / 2) continue;
    line ??= rect.top;
    if (Math.abs(rect.top - line) > rect.height / 2) break;
    const off = Math.abs(rect.left + rect.width / 2 - middle);
    if (off < distance) [best, distance] = [at, off];
  }
  return best;
}

function Alternatives({ box, tokens, i, onContinue, onClose }) {
  const card = useRef();
  const token = tokens[i];
  const known = token.top?.length ? token.top : token.lp === null ? [] : [[token.t, token.lp, token.b]];
  const rows = known.some(([text]) => text === token.t) ? known : [...known, [token.t, token.lp, token.b]];
  const rest = 1 - rows.reduce((sum, [, lp]) => sum + (probability(lp) ?? 0), 0);

  useLayoutEffect(() => {
    const anchor = box.current.querySelector(`[data-i="${i}"]`);
    const frame = box.current.getBoundingClientRect();
    const rects = anchor.getClientRects();
    const last = rects[rects.length - 1] ?? anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = card.current;
    const left = Math.max(0, Math.min(last.left - frame.left, frame.width - width));
    const below = last.bottom - frame.top + 6;
    const above = rects[0].top - frame.top - height - 6;
    const room = window.innerHeight - last.bottom > height + 150 || rects[0].top < height + 60;
    card.current.style.left = `${left}px`;
    card.current.style.top = `${room ? below : above}px`;
  }, [i, rows.length]);

  return html`
    <div class="alternatives" role="dialog" aria-label=${t("think.alternatives")} ref=${card}>
      <div class="alternatives-head">
        <bdi class="alternatives-token"><${Pieces} text=${token.t} bytes=${token.b} spaces /></bdi>
        <span>${percent(token.lp)}</span>
      </div>
      ${rows.map((row, n) => html`<${Row} key=${n} row=${row} chosen=${row[0] === token.t} tokens=${tokens} i=${i} onContinue=${onContinue} onClose=${onClose} />`)}
      ${token.lp === null
        ? html`<p class="note">${t("think.none")}</p>`
        : rest > 0.0005 && html`<div class="alternative rest"><span>${t("think.rest")}</span><${Bar} p=${rest} /><span class="number">${percent(Math.log(rest))}</span></div>`}
      ${onContinue && rows.length > 1 && html`<p class="note">${t("think.pick")}</p>`}
    </div>
  `;
}

const Bar = ({ p }) => html`<span class="bar" aria-hidden="true"><span style=${{ width: `${Math.max(1, p * 100)}%` }}></span></span>`;

function Row({ row, chosen, tokens, i, onContinue, onClose }) {
  const [text, lp, bytes] = row;
  const ends = isSpecial(text);
  const possible = onContinue && !chosen && !ends && prefixText(tokens, i, row) !== null;
  const why = chosen ? t("think.chosen") : ends ? t("think.ends") : possible ? t("think.continue", { token: plain(text, bytes) }) : t("think.half");
  return html`
    <button
      type="button"
      class=${classes("alternative", chosen && "chosen")}
      title=${why}
      disabled=${!possible}
      onClick=${() => {
        onClose();
        onContinue(i, row);
      }}
    >
      <bdi>${chosen && html`<${Icon} name="check" />`}<${Pieces} text=${text} bytes=${bytes} spaces /></bdi>
      <${Bar} p=${probability(lp) ?? 0} />
      <span class="number">${percent(lp)}</span>
    </button>
  `;
}

const STEPS = ["≥ 90 %", "60–90", "30–60", "10–30", "< 10 %"];
export const Legend = () => html`
  <div class="legend" role="note" aria-label=${t("think.legend")}>
    <span>${t("think.sure")}</span>
    ${STEPS.map((text, i) => html`<span class=${`tint p${i}`} key=${i}>${text}</span>`)}
    <span>${t("think.unsure")}</span>
  </div>
`;

const MOST_BITS = 10;

/** Where it hesitated: a stroke for each token, as high as it was surprising (−log₂ p). */
function Pulse({ tokens }) {
  const strokes = tokens.map(({ lp }, i) => `M${i + 0.5} ${MOST_BITS}V${(MOST_BITS - Math.min(MOST_BITS, -(lp ?? 0) / Math.LN2)).toFixed(2)}`);
  return html`
    <svg class="pulse" viewBox=${`0 0 ${tokens.length} ${MOST_BITS}`} preserveAspectRatio="none" role="img" aria-label=${t("measure.pulse")}>
      <title>${t("measure.pulse")}</title>
      <path d=${strokes.join("")} style=${{ strokeWidth: 0.7 }} />
    </svg>
  `;
}

/** What the probabilities come to: a picture and a line. */
export function Measures({ tokens, prefix }) {
  const result = summary(tokens.slice(prefix));
  if (!result) return null;
  return html`
    ${result.n > 1 && html`<${Pulse} tokens=${tokens.slice(prefix)} />`}
    <dl class="measures">
      <div title=${t("measure.typical.help")}><dt>${t("measure.typical")}</dt><dd>${percent(Math.log(result.typical))}</dd></div>
      <div title=${t("measure.perplexity.help")}><dt>${t("measure.perplexity")}</dt><dd>${result.perplexity.toFixed(2)}</dd></div>
      ${result.entropyBits !== null &&
      html`<div title=${t("measure.entropy.help")}><dt>${t("measure.entropy")}</dt><dd>${`≥ ${result.entropyBits.toFixed(2)} bit`}</dd></div>`}
    </dl>
  `;
}
