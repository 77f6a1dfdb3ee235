def write_page(record, page):
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("x")
