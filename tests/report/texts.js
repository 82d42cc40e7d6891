// Evaluates to what is wrong with where texts stand: outside of the window or of their clipping box, or on each other.
(() => {
  const seen = [];
  const problems = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, title, caption")) continue;
    if (!parent.checkVisibility({ visibilityProperty: true })) continue;
    const scrolled = parent.closest(".scroll");
    const cut = parent.closest(".name, th button"); // these end in an ellipsis
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      let [left, right] = [box.left, box.right];
      if (cut && getComputedStyle(cut).textOverflow === "ellipsis") {
        const around = cut.getBoundingClientRect();
        [left, right] = [Math.max(left, around.left), Math.min(right, around.right)];
      }
      if (right - left < 1) continue;
      const text = node.data.trim().slice(0, 40);
      if (!scrolled && (left < -1 || right > innerWidth + 1)) problems.push(`leaves the window: ${text}`);
      if (left < 0 || right > innerWidth) continue; // in a table, to be scrolled to
      // lines may stand closer than their boxes are high
      const trim = (box.bottom - box.top) * 0.17;
      seen.push({ text, left, right, top: box.top + trim, bottom: box.bottom - trim, node });
    }
  }
  seen.sort((a, b) => a.top - b.top);
  seen.forEach((a, k) => {
    for (let j = k + 1; j < seen.length && seen[j].top < a.bottom; j++) {
      const b = seen[j];
      if (a.node !== b.node && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1) {
        problems.push(`on each other: ${a.text} | ${b.text}`);
      }
    }
  });
  return { texts: seen.length, problems, width: document.documentElement.scrollWidth };
})()
