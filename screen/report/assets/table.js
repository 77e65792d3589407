// A table that sorts by its headings and turns pages; the browser's own <table>, so that it is read aloud and printed.
// columns: {title, number, wide, value(row), show(row)}; rows: anything
class SortedTable {
  constructor(place, caption, columns, pageSize) {
    Object.assign(this, { place, caption, columns, pageSize });
    this.sorted = null;
    this.page = 0;
    this.rows = [];
  }

  show(rows) {
    this.rows = rows;
    this.page = 0;
    this.draw();
  }

  ordered() {
    if (this.sorted === null) return this.rows;
    const { value } = this.columns[this.sorted.column];
    const sign = this.sorted.ascending ? 1 : -1;
    const keyed = this.rows.map((row, i) => [value(row), i, row]);
    keyed.sort(([a, i], [b, j]) => {
      // what is not known comes last either way
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      return sign * (typeof a === "string" ? a.localeCompare(b) : a - b) || i - j;
    });
    return keyed.map(([, , row]) => row);
  }

  sortBy(column) {
    const before = this.sorted;
    const ascending = before !== null && before.column === column ? !before.ascending : !this.columns[column].number || this.columns[column].rising === true;
    this.sorted = { column, ascending };
    this.page = 0;
    this.draw();
    at(this.place).querySelectorAll("thead button")[column].focus();
  }

  heading(column, i) {
    const { title, number, wide } = column;
    const is = this.sorted !== null && this.sorted.column === i;
    const direction = is ? (this.sorted.ascending ? "ascending" : "descending") : "none";
    const classes = [number ? "number" : "", wide ? "wide" : ""].join(" ").trim();
    return element("th", { scope: "col", class: classes || null, "aria-sort": direction },
      element("button", { type: "button", onclick: () => this.sortBy(i) }, title));
  }

  cell(column, row) {
    const classes = [column.number ? "number" : "name", column.wide ? "wide" : ""].join(" ").trim();
    return element("td", { class: classes }, column.show(row));
  }

  // once: what is read aloud when it changes must stay in its place
  frame() {
    const turn = (by, title) => element("button", { type: "button", onclick: () => this.turn(by) }, title);
    const scroller = element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": this.caption });
    replace(this.place, scroller, element("div", { class: "pager" }, turn(-1, "Previous"), turn(1, "Next"), element("span", { role: "status" })));
  }

  draw() {
    if (at(this.place).querySelector(".pager") === null) this.frame();
    const [scroller, pager] = at(this.place).children;
    const all = this.ordered();
    const start = this.page * this.pageSize;
    const some = all.slice(start, start + this.pageSize);
    const body = some.map((row) => element("tr", { class: this.isHit && this.isHit(row) ? "hit" : null }, ...this.columns.map((c) => this.cell(c, row))));
    const table = element("table", {},
      element("caption", { class: "unseen" }, this.caption),
      element("thead", {}, element("tr", {}, ...this.columns.map((c, i) => this.heading(c, i)))),
      element("tbody", {}, ...body));
    scroller.replaceChildren(table);
    const [back, next, words] = pager.children;
    back.disabled = start === 0;
    next.disabled = start + some.length >= all.length;
    back.hidden = next.hidden = all.length <= this.pageSize;
    words.className = all.length && all.length <= this.pageSize ? "unseen" : "";
    words.textContent = all.length ? `${whole(start + 1)}–${whole(start + some.length)} of ${whole(all.length)}` : "nothing to show";
  }

  turn(by) {
    this.page += by;
    this.draw();
    const button = at(this.place).querySelectorAll(".pager button")[by < 0 ? 0 : 1];
    (button.disabled ? at(this.place).querySelector(".scroll") : button).focus();
  }
}

function choose(select, options, chosen) {
  at(select).replaceChildren(...options.map(([value, text]) => element("option", { value, selected: String(value) === String(chosen) }, text)));
}
