// A formula or a table that is wider than the screen scrolls: let the keyboard reach it
(() => {
  const wide = 'mjx-container[display="true"], .pst-scrollable-table-container';
  const mark = () => {
    for (const box of document.querySelectorAll(wide)) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    mark();
  });
  window.addEventListener("resize", mark);
})();

// The arrows in the list of pages have no words: they are called by the page that they belong to
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("summary:has(> .toctree-toggle)")) {
    const page = summary.closest("li").querySelector("a");
    summary.setAttribute("aria-label", `Pages below ${page ? page.textContent.trim() : "this one"}`);
  }
});
