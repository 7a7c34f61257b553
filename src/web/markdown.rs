use std::collections::HashMap;

use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

/// A document rendered to HTML.
pub(super) struct Rendered {
    pub title: String,
    pub html: String,
}

/// Renders a document. `resolve` maps a link to another file to a path of this site; a link
/// without a target is rendered as plain text.
pub(super) fn render(markdown: &str, resolve: impl Fn(&str) -> Option<String>) -> Rendered {
    let events: Vec<Event<'_>> = Parser::new_ext(markdown, Options::ENABLE_TABLES).collect();
    let ids = heading_ids(&events);
    let mut ids = ids.into_iter();
    let mut title = String::new();
    let mut is_in_title = false;
    let mut is_dropped = Vec::new();
    let mut output = Vec::with_capacity(events.len());
    for event in events {
        match event {
            Event::Start(Tag::Heading { level, classes, attrs, .. }) => {
                is_in_title = title.is_empty() && level == HeadingLevel::H1;
                let id = ids.next().map(CowStr::from);
                output.push(Event::Start(Tag::Heading { level, id, classes, attrs }));
            }
            Event::End(TagEnd::Heading(level)) => {
                is_in_title = false;
                output.push(Event::End(TagEnd::Heading(level)));
            }
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let dest_url = target(&dest_url, &resolve);
                is_dropped.push(dest_url.is_none());
                if let Some(dest_url) = dest_url {
                    output.push(Event::Start(Tag::Link { link_type, dest_url: dest_url.into(), title, id }));
                }
            }
            Event::End(TagEnd::Link) if is_dropped.pop() == Some(true) => {}
            // Wide tables scroll; the tab index makes that possible with the keyboard.
            Event::Start(Tag::Table(alignments)) => {
                output.push(Event::Html(
                    "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Table\">".into(),
                ));
                output.push(Event::Start(Tag::Table(alignments)));
            }
            Event::End(TagEnd::Table) => {
                output.push(Event::End(TagEnd::Table));
                output.push(Event::Html("</div>".into()));
            }
            Event::Text(text) | Event::Code(text) if is_in_title => {
                title.push_str(&text);
                output.push(Event::Text(text));
            }
            event => output.push(event),
        }
    }
    let mut page = String::new();
    html::push_html(&mut page, output.into_iter());
    Rendered { title, html: page.replace("<pre>", "<pre tabindex=\"0\">") }
}

fn target(url: &str, resolve: impl Fn(&str) -> Option<String>) -> Option<String> {
    if url.starts_with('#') || url.starts_with("https://") || url.starts_with("http://") {
        return Some(url.to_owned());
    }
    let (file, anchor) = url.split_once('#').map_or((url, None), |(file, anchor)| (file, Some(anchor)));
    let target = resolve(file)?;
    Some(anchor.map_or(target.clone(), |anchor| format!("{target}#{anchor}")))
}

/// The anchors of headings, equal to those on GitHub: lower case, hyphens for spaces, and a
/// number for the second of two equal headings.
fn heading_ids(events: &[Event<'_>]) -> Vec<String> {
    let mut seen = HashMap::<String, usize>::new();
    let mut ids = Vec::new();
    let mut heading: Option<String> = None;
    for event in events {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(text);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                let text = heading.take().unwrap_or_default().to_lowercase();
                let allowed = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                let id: String = allowed.map(|c| if c == ' ' { '-' } else { c }).collect();
                let count = seen.entry(id.clone()).and_modify(|count| *count += 1).or_insert(0);
                ids.push(if *count == 0 { id } else { format!("{id}-{count}") });
            }
            _ => {}
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_get_anchors_and_links_without_target_become_text() {
        let text = "# The `x`\n\n## Redis, set\n\n## Redis set\n\n[a](b.md#c) [gone](../d) [e](#f) [g](https://h)";
        let page = render(text, |file| (file == "b.md").then(|| "/docs/b".into()));
        assert_eq!(page.title, "The x");
        for part in [
            "<h2 id=\"redis-set\">",
            "<h2 id=\"redis-set-1\">",
            "<a href=\"/docs/b#c\">a</a> gone <a href=\"#f\">e</a> <a href=\"https://h\">g</a>",
        ] {
            assert!(page.html.contains(part), "{part} is not in {}", page.html);
        }
    }
}
