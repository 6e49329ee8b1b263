// What test_page_layout.py asks of the page. The value of this script is an object of functions.
(() => {
  const clipped = (e) => ["overflowX", "overflowY"].some((name) => getComputedStyle(e)[name] !== "visible");
  const clipOf = (element) => {
    const clip = {left: -1e9, right: 1e9, top: -1e9, bottom: 1e9};
    for (let e = element; e !== document.body; e = e.parentElement) {
      if (!clipped(e)) continue;
      const box = e.getBoundingClientRect();
      for (const side of ["left", "top"]) clip[side] = Math.max(clip[side], box[side]);
      for (const side of ["right", "bottom"]) clip[side] = Math.min(clip[side], box[side]);
    }
    return clip;
  };
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = numbers(colour).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = (ink, paper) => {
    const [a, b] = [luminance(ink), luminance(paper)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };

  return {
    /** Pairs of visible texts that are drawn over one another. */
    overprinted() {
      const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      for (let node; (node = walker.nextNode()); ) {
        const element = node.parentElement;
        if (!node.data.trim() || !element.checkVisibility() || element.closest("noscript, script, .unseen, svg, option")) continue;
        const range = document.createRange(), clip = clipOf(element);
        range.selectNodeContents(node);
        for (const b of range.getClientRects()) {
          const box = {node, left: Math.max(b.left, clip.left), right: Math.min(b.right, clip.right)};
          Object.assign(box, {top: Math.max(b.top, clip.top) + 3, bottom: Math.min(b.bottom, clip.bottom) - 3});
          if (box.right - box.left > 1 && box.bottom - box.top > 1) texts.push(box);
        }
      }
      const apart = (a, b) => a.node === b.node || a.left >= b.right - 1 || b.left >= a.right - 1 || a.top >= b.bottom || b.top >= a.bottom;
      return texts.flatMap((a, i) => texts.slice(i + 1).filter((b) => !apart(a, b)).map((b) => [a.node.data, b.node.data]));
    },

    /** Boxes whose content is wider than they are. Only matrices and maps of heads may need scrolling. */
    cut() {
      const found = [...document.querySelectorAll("body, .scroll:has(table), header, main, #controls, .title p")];
      return found.filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.id || e.className || e.tagName);
    },

    /** Texts whose contrast with their background is below 4.5 (WCAG AA). */
    faint() {
      const written = (e) => e.checkVisibility() && [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
      const ink = (e) => getComputedStyle(e)[e instanceof SVGElement ? "fill" : "color"];
      const found = [...document.querySelectorAll("body *")].filter(written).map((e) => [e.textContent.slice(0, 30), contrast(ink(e), ground(e))]);
      for (const input of document.querySelectorAll("[placeholder]")) {
        found.push([input.placeholder, contrast(getComputedStyle(input, "::placeholder").color, ground(input))]);
      }
      return found.filter(([, value]) => value < 4.5);
    },

    /** Whether the footer with the keys lies in the window and nothing covers it. */
    keysInSight() {
      const box = document.querySelector("footer").getBoundingClientRect();
      const at = document.elementFromPoint(box.left + 30, box.top + box.height / 2);
      return box.bottom <= window.innerHeight + 1 && at?.closest("footer") !== null;
    },

    /** The focused element as "group: name". */
    focused() {
      const e = document.activeElement, group = e.closest(".choice, #sentence-list, #runs")?.id || e.id || e.tagName.toLowerCase();
      return `${group}: ${e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent.trim()}`;
    },
  };
})()
