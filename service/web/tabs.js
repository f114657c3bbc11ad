// The tabs of the views: https://www.w3.org/WAI/ARIA/apg/patterns/tabs/

import { listen, set, state } from "./state.js";

const allTabs = [...document.querySelectorAll("[role=tab]")];

/** `views` maps a view's name to the function to call when it is shown. Tabs without a view are hidden. */
export function showTabs(views) {
  for (const tab of allTabs) tab.hidden = !(nameOf(tab) in views);
  const tabs = allTabs.filter((tab) => !tab.hidden);
  for (const tab of tabs) tab.addEventListener("click", () => set({ view: nameOf(tab) }));
  document.querySelector("#tabs").addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const target = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    const tab = tabs.at(target % tabs.length);
    tab.focus();
    set({ view: nameOf(tab) });
  });
  const show = () => {
    const name = state.view in views ? state.view : nameOf(tabs[0]);
    for (const tab of tabs) {
      const isSelected = nameOf(tab) === name;
      tab.setAttribute("aria-selected", String(isSelected));
      tab.tabIndex = isSelected ? 0 : -1;
      document.getElementById(nameOf(tab)).hidden = !isSelected;
    }
    views[name]();
  };
  listen(["view"], show);
  show();
}

const nameOf = (tab) => tab.getAttribute("aria-controls");
