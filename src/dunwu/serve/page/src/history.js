// Conversations in the browser's IndexedDB; in memory alone where the browser forbids it.
const NAME = "dunwu";
const STORE = "conversations";
const memory = new Map();

let opened = null;

function open() {
  opened ??= new Promise((resolve) => {
    try {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
      request.onblocked = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

async function run(mode, work) {
  const db = await open();
  if (!db) return null;
  return new Promise((resolve, reject) => {
    const transaction = db.transaction(STORE, mode);
    const request = work(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

export const history = {
  /** False where nothing outlives the page. */
  lasting: async () => (await open()) !== null,
  async all() {
    return ((await run("readonly", (store) => store.getAll())) ?? [...memory.values()]).sort((a, b) => b.updated - a.updated);
  },
  async save(conversation) {
    memory.set(conversation.id, conversation);
    await run("readwrite", (store) => store.put(conversation));
  },
  async remove(id) {
    memory.delete(id);
    await run("readwrite", (store) => store.delete(id));
  },
  async clear() {
    memory.clear();
    await run("readwrite", (store) => store.clear());
  },
};

export const FORMAT = "dunwu-conversations";

export const exported = (conversations) => JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);

/** Conversations of an exported file, rebuilt field by field: a file from elsewhere is not to be trusted. Raises Error with a code as message. */
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("not-json");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) throw new Error("not-ours");
  return file.conversations.map(conversation).filter((one) => one.roots.length);
}

const string = (value) => (typeof value === "string" ? value : "");
const number = (value) => (Number.isFinite(value) ? value : null);
const list = (value) => (Array.isArray(value) ? value : []);
const bytes = (value) => (Array.isArray(value) && value.every((byte) => Number.isInteger(byte) && byte >= 0 && byte < 256) ? value : undefined);

const alternative = (item) => {
  const [text, lp, raw] = list(item);
  return [string(text), number(lp), ...(bytes(raw) ? [raw] : [])];
};
const token = (item) => ({
  t: string(item?.t),
  lp: number(item?.lp),
  top: list(item?.top).slice(0, 20).map(alternative),
  ...(bytes(item?.b) && { b: item.b }),
});

function node(raw) {
  const common = { id: string(raw.id), parent: string(raw.parent) || null, role: raw.role === "user" ? "user" : "assistant", text: string(raw.text), children: [], created: number(raw.created) ?? 0 };
  if (common.role === "user") return common;
  return {
    ...common,
    model: string(raw.model),
    mode: raw.mode === "text" ? "text" : "chat",
    thoughts: string(raw.thoughts),
    tokens: list(raw.tokens).map(token),
    prefix: number(raw.prefix) ?? 0,
    finish: string(raw.finish) || null,
    seconds: number(raw.seconds),
    count: number(raw.count),
  };
}

function conversation(raw) {
  const nodes = Object.create(null);
  for (const one of Object.values(raw?.nodes ?? {})) if (/^(?!__)[\w-]{1,64}$/.test(one?.id ?? "")) nodes[one.id] = node(one);
  const reached = {};
  const roots = [];
  // Only what hangs together from a root is taken; a loop or an orphan is left out.
  const take = (id, parent) => {
    const found = nodes[id];
    if (!found || reached[id] || found.parent !== parent) return;
    reached[id] = found;
    for (const child of list(raw.nodes[id]?.children)) {
      take(child, id);
      if (reached[child]?.parent === id && !found.children.includes(child)) found.children.push(child);
    }
    if (parent === null) roots.push(id);
  };
  for (const id of list(raw?.roots)) take(id, null);
  const choice = {};
  for (const [parent, child] of Object.entries(raw?.choice ?? {})) if (reached[child] && (reached[child].parent ?? "") === parent) choice[parent] = child;
  if (roots.length && !choice[""]) choice[""] = roots[0];
  return { id: string(raw?.id), title: string(raw?.title), created: number(raw?.created) ?? 0, updated: number(raw?.updated) ?? 0, model: string(raw?.model), system: string(raw?.system), nodes: reached, roots, choice };
}
