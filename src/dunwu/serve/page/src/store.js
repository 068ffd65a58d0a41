// One small store for what the whole page shows, and what of it outlives the page.
import { useEffect, useReducer, useRef } from "preact/hooks";

export function createStore(initial) {
  let state = initial;
  const listeners = new Set();
  return {
    get: () => state,
    set(change) {
      const patch = typeof change === "function" ? change(state) : change;
      state = { ...state, ...patch };
      for (const listener of listeners) listener();
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** The selected part of the store; the component renders again only when that part is another object. */
export function useStore(store, select) {
  const [, render] = useReducer((n) => n + 1, 0);
  const latest = useRef({});
  latest.current = { select, part: select(store.get()) };
  useEffect(() => {
    const look = () => {
      if (latest.current.select(store.get()) !== latest.current.part) render();
    };
    look(); // what changed between the first drawing and now
    return store.subscribe(look);
  }, []);
  return latest.current.part;
}

// Storage may be forbidden or full (private windows, quotas): then the page works and forgets.
export const kept = {
  read(key, fallback) {
    try {
      const text = localStorage.getItem(`dunwu.${key}`);
      return text === null ? fallback : JSON.parse(text);
    } catch {
      return fallback;
    }
  },
  write(key, value) {
    try {
      if (value === undefined || value === "") localStorage.removeItem(`dunwu.${key}`);
      else localStorage.setItem(`dunwu.${key}`, JSON.stringify(value));
    } catch {
      // nothing to do
    }
  },
};

/** Not crypto.randomUUID: it is missing on plain http, which is how a phone reaches a laptop. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
