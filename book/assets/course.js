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
