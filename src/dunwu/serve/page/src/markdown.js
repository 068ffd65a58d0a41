// Markdown and mathematics from a model, which is untrusted, to a document fragment. Three walls, each enough alone:
// 1. raw HTML in the text is shown as text, pictures become links, only http, https and mailto are linked;
// 2. DOMPurify lets through a short list of elements and attributes, no style, no form, no picture, no SVG;
// 3. the page's content security policy runs no inline script and asks no other host for anything.
import DOMPurify from "dompurify";
import katex from "katex";
import { Marked } from "marked";

const TAGS = "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre span strong table tbody td th thead tr ul".split(" ");
const CLASSES = /^(language-[\w+#.-]{1,30}|math-inline|math-display|host|task|left|center|right)$/;
const MAX_TEX = 4000;

const escape = (text) => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);

/** The address if it may be linked, else null. */
export function safeAddress(href) {
  try {
    const url = new URL(href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url : null;
  } catch {
    return null;
  }
}

/** A link that shows where it goes: the host stands behind a text that does not name it. */
function link(href, inner, text) {
  const url = safeAddress(href);
  if (!url) return `${inner} <span class="host">(${escape(href)})</span>`;
  const host = url.protocol === "mailto:" ? url.pathname : url.host;
  const shown = text.trim() === href || text.trim() === host ? "" : ` <span class="host">(${escape(host)})</span>`;
  return `<a href="${escape(url.href)}">${inner}</a>${shown}`;
}

const renderer = {
  html: ({ text }) => (/^<br\s*\/?>$/i.test(text.trim()) ? "<br>" : escape(text)),
  image: ({ href, text }) => link(href, `${escape("▧ ")}${escape(text || "image")}`, text),
  link({ href, tokens, text }) {
    return link(href, this.parser.parseInline(tokens), text);
  },
  code: ({ text, lang }) => {
    const name = /^[\w+#.-]{1,30}/.exec(lang ?? "")?.[0];
    return `<pre><code${name ? ` class="language-${name}"` : ""}>${escape(text)}</code></pre>`;
  },
  checkbox: ({ checked }) => `<span class="task">${checked ? "☑" : "☐"}</span> `,
  tablecell(token) {
    const tag = token.header ? "th" : "td";
    return `<${tag}${token.align ? ` class="${token.align}"` : ""}>${this.parser.parseInline(token.tokens)}</${tag}>`;
  },
};

// $x$ and $$x$$ as in Pandoc (a dollar before a figure is money), \(x\) and \[x\] as in LaTeX.
const math = (name, level, start, rule, display) => ({
  name,
  level,
  start: (text) => {
    const at = text.search(start);
    return at < 0 ? undefined : at;
  },
  tokenizer(text) {
    const match = rule.exec(text);
    if (match) return { type: name, raw: match[0], text: (match[1] ?? match[2]).trim() };
  },
  renderer: ({ text }) => `<code class="${display ? "math-display" : "math-inline"}">${escape(text)}</code>`,
});
const extensions = [
  math("mathBlock", "block", /\$\$|\\\[/, /^(?:\$\$((?:(?!\$\$)[^])+?)\$\$|\\\[([^]+?)\\\])[ \t]*(?:\n|$)/, true),
  math("mathDisplay", "inline", /\$\$|\\\[/, /^(?:\$\$((?:(?!\$\$)[^])+?)\$\$|\\\[([^]+?)\\\])/, true),
  math("mathInline", "inline", /\$|\\\(/, /^(?:\$(?![\s$])((?:\\[^]|[^$\\\n])+?)(?<!\s)\$(?!\d)|\\\(([^\n]+?)\\\))/, false),
];

const marked = new Marked({ gfm: true, breaks: false, renderer, extensions });
const purify = DOMPurify(window);

purify.addHook("uponSanitizeAttribute", (node, data) => {
  if (data.attrName === "class") data.keepAttr = data.attrValue.split(/\s+/).every((name) => CLASSES.test(name));
  if (data.attrName === "href") data.keepAttr = safeAddress(data.attrValue) !== null;
});
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

const sanitise = (html) =>
  purify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "class", "start"],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });

/** Blocks of the text, each {raw, token}: the unit that is rendered again while an answer grows. */
export function blocks(text) {
  try {
    return marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
  } catch {
    return [{ type: "paragraph", raw: text, tokens: [{ type: "text", raw: text, text }] }];
  }
}

/** One block as a fragment, mathematics set, code blocks with their copy button. `words`: {copy, copied}. */
export function fragment(token, words) {
  let html;
  try {
    html = marked.parser([token]);
  } catch {
    html = `<p>${escape(token.raw)}</p>`;
  }
  const result = sanitise(html);
  for (const code of result.querySelectorAll("code.math-inline, code.math-display")) setMath(code);
  for (const pre of result.querySelectorAll("pre")) frame(pre, words);
  for (const table of result.querySelectorAll("table")) scrollable(table);
  return result;
}

// KaTeX builds elements and sets styles through the object model, which the policy allows; it gets no HTML and returns none.
function setMath(code) {
  const tex = code.textContent;
  if (tex.length > MAX_TEX) return;
  const holder = document.createElement("span");
  holder.className = code.className;
  try {
    katex.render(tex, holder, { displayMode: code.classList.contains("math-display"), throwOnError: true, trust: false, strict: "ignore", maxSize: 20, maxExpand: 200 });
    code.replaceWith(holder);
  } catch {
    // not TeX after all: the source stays
  }
}

function frame(pre, words) {
  const name = /language-(\S+)/.exec(pre.firstElementChild?.className ?? "")?.[1] ?? "";
  const box = document.createElement("div");
  box.className = "code";
  const bar = document.createElement("div");
  bar.className = "code-bar";
  const label = document.createElement("span");
  label.textContent = name;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = words.copy;
  button.addEventListener("click", async () => {
    button.textContent = (await copyText(pre.textContent)) ? words.copied : words.copy;
    setTimeout(() => (button.textContent = words.copy), 1500);
  });
  bar.append(label, button);
  pre.replaceWith(box);
  pre.tabIndex = 0;
  box.append(bar, pre);
}

function scrollable(table) {
  const box = document.createElement("div");
  box.className = "table";
  box.tabIndex = 0;
  table.replaceWith(box);
  box.append(table);
}

/** The clipboard's interface is missing on plain http; the old way is there still. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
