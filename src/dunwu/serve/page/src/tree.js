// A conversation is a tree: an edited question or a second answer is a sibling, and nothing is overwritten.
// Pure functions over plain objects; each returns a new conversation.
//
// conversation: {id, title, created, updated, model, system, nodes: {id: node}, roots: [id], choice: {parent id or "": child id}}
// node:         {id, parent, role: "user" | "assistant", text, children: [id], ...}  (an answer: see `newAnswer`)
import { newId } from "./store.js";

export function newConversation() {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, model: "", system: "", nodes: {}, roots: [], choice: {} };
}

/** tokens: see tokens.js. prefix: how many of them were given, not generated. mode: "chat" | "text". */
export function newAnswer(parent, { model, mode, tokens = [], text = "" }) {
  return { id: newId(), parent, role: "assistant", text, tokens, prefix: tokens.length, model, mode, children: [], created: Date.now() };
}

export function newQuestion(parent, text) {
  return { id: newId(), parent, role: "user", text, children: [], created: Date.now() };
}

export function add(conversation, node) {
  const nodes = { ...conversation.nodes, [node.id]: node };
  let roots = conversation.roots;
  if (node.parent) {
    const parent = nodes[node.parent];
    nodes[parent.id] = { ...parent, children: [...parent.children, node.id] };
  } else {
    roots = [...roots, node.id];
  }
  return { ...conversation, nodes, roots, choice: { ...conversation.choice, [node.parent ?? ""]: node.id }, updated: Date.now() };
}

export function change(conversation, id, patch) {
  if (!conversation.nodes[id]) return conversation;
  return { ...conversation, nodes: { ...conversation.nodes, [id]: { ...conversation.nodes[id], ...patch } }, updated: Date.now() };
}

export function choose(conversation, id) {
  return { ...conversation, choice: { ...conversation.choice, [conversation.nodes[id].parent ?? ""]: id } };
}

export function siblings(conversation, node) {
  return node.parent ? conversation.nodes[node.parent].children : conversation.roots;
}

/** The nodes from the first question down the chosen branch. */
export function path(conversation) {
  const nodes = [];
  for (let id = conversation.choice[""]; id && conversation.nodes[id]; id = conversation.choice[id]) nodes.push(conversation.nodes[id]);
  return nodes;
}

/** The nodes from the first question to this one, whatever branch is shown. */
export function ancestry(conversation, id) {
  const nodes = [];
  for (; id; id = conversation.nodes[id].parent) nodes.unshift(conversation.nodes[id]);
  return nodes;
}

export function title(text) {
  const line = text.trim().replace(/\s+/g, " ");
  const letters = Array.from(line);
  return letters.length > 60 ? `${letters.slice(0, 59).join("")}…` : line;
}
