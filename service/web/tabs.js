// The views beside the walk: tabs that arrow keys move between.

import { listen, set, state } from "./state.js";

const tabs = [...document.querySelectorAll("[role=tab]")];

/** `views` says what to do when a view is shown, by its name; those without an entry do not exist here. */
export function showTabs(views) {
  for (const tab of tabs) tab.hidden = !(nameOf(tab) in views);
  const there = tabs.filter((tab) => !tab.hidden);
  for (const tab of there) tab.addEventListener("click", () => set({ view: nameOf(tab) }));
  document.querySelector("#tabs").addEventListener("keydown", (event) => {
    const at = there.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const tab = there.at(to % there.length);
    tab.focus();
    set({ view: nameOf(tab) });
  });
  const show = () => {
    const name = state.view in views ? state.view : nameOf(there[0]);
    for (const tab of there) {
      const isShown = nameOf(tab) === name;
      tab.setAttribute("aria-selected", String(isShown));
      tab.tabIndex = isShown ? 0 : -1;
      document.getElementById(nameOf(tab)).hidden = !isShown;
    }
    views[name]();
  };
  listen(["view"], show);
  show();
}

const nameOf = (tab) => tab.getAttribute("aria-controls");
