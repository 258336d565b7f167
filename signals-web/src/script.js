// Updates the content of the page in place: what is open, selected or focused stays so.
(() => {
  const main = document.querySelector("main"), live = document.querySelector("#live");
  const button = document.querySelector("#updates");
  let isPaused = false;
  live.parentElement.hidden = false;

  const key = (node) => node.nodeName + (node.id || "");
  const update = (old, now) => {
    if (old.isEqualNode(now)) return;
    if (key(old) !== key(now)) return old.replaceWith(now);
    if (old.nodeType !== Node.ELEMENT_NODE) { old.nodeValue = now.nodeValue; return; }
    // What the user is choosing is not known to the server.
    if (old.method === "get") return;
    for (const { name } of [...old.attributes])
      if (!now.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    for (const { name, value } of [...now.attributes])
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const known = new Map([...old.children].filter((node) => node.id).map((node) => [key(node), node]));
    let place = old.firstChild;
    for (const child of [...now.childNodes]) {
      const same = child.id ? known.get(key(child)) : place && !place.id && place;
      if (!same) { old.insertBefore(child, place); continue; }
      if (same === place) place = place.nextSibling; else old.insertBefore(same, place);
      update(same, child);
    }
    while (place) { const next = place.nextSibling; place.remove(); place = next; }
  };

  const refresh = async () => {
    // A row must not move away under the pointer, nor a selection be lost.
    const busy = main.querySelector("[data-still]:hover, [data-still] :focus, details.confirm[open]");
    if (isPaused || document.hidden || busy || !getSelection().isCollapsed) return 1000;
    const start = performance.now();
    try {
      const response = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!response.ok || response.redirected) throw new Error(response.status);
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      if (!isPaused) { update(main, page.querySelector("main")); document.title = page.title; }
      live.textContent = "Updated " + new Date().toLocaleTimeString();
      live.className = "";
    } catch {
      live.textContent = "Not updated since " + (live.dataset.at || "the page was loaded");
      live.className = "failed";
      return 5000;
    }
    live.dataset.at = new Date().toLocaleTimeString();
    return Math.max(2000, 20 * (performance.now() - start));
  };
  const loop = async () => setTimeout(loop, await refresh());

  button.onclick = () => {
    isPaused = !isPaused;
    button.setAttribute("aria-pressed", isPaused);
    if (isPaused) live.textContent = "Paused";
  };
  live.textContent = "Updates itself";
  setTimeout(loop, 2000);
})();
