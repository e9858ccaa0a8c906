"""Pages for people: plain HTML that needs no script and loads nothing, in the languages of those who read them."""
