"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Tables: a heading sorts the rows by its column, numbers by their values; a second time the other way round.
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table), body = table.tBodies[0];
    const value = (row, i) => {
      const cell = row.cells[i];
      return "value" in cell.dataset ? Number(cell.dataset.value.replace("inf", "Infinity")) : cell.textContent.trim();
    };
    const before = (a, b) => {
      if (typeof a === "number" && typeof b === "number") return a - b;
      if (typeof a === "number") return -1;
      if (typeof b === "number") return 1;
      return a.localeCompare(b, "en", { numeric: true });
    };
    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => before(value(a, i), value(b, i)) * (down ? -1 : 1));
      body.append(...rows);
    }));
  }

  // Search: studies that do not have all the words are hidden, and so are their links.
  const search = document.getElementById("search"), found = document.getElementById("found");
  const studies = all("section.study").map((section) => {
    const id = section.getAttribute("aria-labelledby");
    return { section, link: document.querySelector(`nav a[href="#${CSS.escape(id)}"]`), words: section.textContent.toLowerCase() };
  });
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { section, link, words: text } of studies) {
      const has = words.every((word) => text.includes(word));
      section.hidden = link.parentElement.hidden = !has;
      count += has;
    }
    found.textContent = words.length ? `${count} of ${studies.length} studies` : "";
  });

  // The link of the section that is being read is marked.
  const links = new Map(all("nav li a").map((link) => [link.getAttribute("href").slice(1), link]));
  const mark = (id) => {
    for (const [other, link] of links) other === id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) mark(entry.target.getAttribute("aria-labelledby"));
  }, { rootMargin: "-10% 0px -85% 0px" });
  for (const section of all("main > section")) watcher.observe(section);

  // On a phone the contents are closed until they are wanted.
  const contents = document.querySelector("nav details"), narrow = matchMedia("(max-width: 60rem)");
  const fold = () => { contents.open = !narrow.matches; };
  fold();
  narrow.addEventListener("change", fold);
  for (const link of links.values()) link.addEventListener("click", () => { if (narrow.matches) contents.open = false; });

  // Dark or light, as the system has it until the button says otherwise.
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // Commands are copied.
  for (const button of all("button.copy")) button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code"), label = button.firstChild;
    try { await navigator.clipboard.writeText(code.textContent); label.data = "Copied"; }
    catch { getSelection().selectAllChildren(code); label.data = "Selected"; }
    setTimeout(() => { label.data = "Copy"; }, 2000);
  });

  // Figures are enlarged.
  const dialog = document.getElementById("enlarged"), large = document.getElementById("large");
  for (const button of all("button.enlarge")) button.addEventListener("click", () => {
    const image = button.querySelector("img");
    large.src = image.src;
    large.alt = image.alt;
    dialog.showModal();
  });
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  // The point of a curve that is nearest to the pointer is read out.
  const readable = JSON.parse(document.getElementById("readable").textContent);
  for (const [id, panels] of Object.entries(readable)) {
    const picture = document.querySelector(`#${CSS.escape(id)} .picture`), image = picture.querySelector("img");
    const reading = document.createElement("div"), dot = document.createElement("div");
    reading.className = "reading";
    dot.className = "dot";
    reading.ariaHidden = dot.ariaHidden = "true";
    const away = () => { reading.remove(); dot.remove(); };
    picture.addEventListener("pointerleave", away);
    picture.addEventListener("pointermove", (event) => {
      const box = image.getBoundingClientRect(), outer = picture.getBoundingClientRect();
      const x = 1e4 * (event.clientX - box.left) / box.width, y = 1e4 * (event.clientY - box.top) / box.height;
      const panel = panels.find(({ box: [l, t, r, b] }) => l <= x && x <= r && t <= y && y <= b);
      let best = null;
      for (const curve of panel ? panel.curves : []) for (const point of curve.points) {
        const distance = ((point[0] - x) * box.width) ** 2 + ((point[1] - y) * box.height) ** 2;
        if (!best || distance < best.distance) best = { distance, curve, point };
      }
      if (!best || best.distance > (60 * 1e4) ** 2) return away();
      const [across, down, first, second] = best.point;
      const left = box.left - outer.left + across * box.width / 1e4, top = box.top - outer.top + down * box.height / 1e4;
      dot.style.cssText = `left: ${left}px; top: ${top}px; background: ${best.curve.colour}`;
      reading.textContent = `${best.curve.name}\n${panel.x || "x"}: ${first}\n${panel.y || "y"}: ${second}`;
      picture.append(dot, reading);
      const right = left + 14 + reading.offsetWidth > outer.width;
      reading.style.left = `${Math.max(0, right ? left - 14 - reading.offsetWidth : left + 14)}px`;
      reading.style.top = `${Math.max(0, Math.min(top + 10, outer.height - reading.offsetHeight))}px`;
    });
  }
})();
