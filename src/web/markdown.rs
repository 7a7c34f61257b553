use std::collections::HashMap;

use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

/// A document as a page shows it.
pub(super) struct Rendered {
    pub title: String,
    pub html: String,
}

/// Renders a document. Its links to other files are passed through `to`, which
/// says where they lead here, or that they lead nowhere.
pub(super) fn render(markdown: &str, to: impl Fn(&str) -> Option<String>) -> Rendered {
    let events: Vec<Event<'_>> = Parser::new_ext(markdown, Options::ENABLE_TABLES).collect();
    let ids = heading_ids(&events);
    let mut ids = ids.into_iter();
    let mut title = String::new();
    let mut is_in_title = false;
    let mut gone = Vec::new();
    let mut shown = Vec::with_capacity(events.len());
    for event in events {
        match event {
            Event::Start(Tag::Heading { level, classes, attrs, .. }) => {
                is_in_title = title.is_empty() && level == HeadingLevel::H1;
                let id = ids.next().map(CowStr::from);
                shown.push(Event::Start(Tag::Heading { level, id, classes, attrs }));
            }
            Event::End(TagEnd::Heading(level)) => {
                is_in_title = false;
                shown.push(Event::End(TagEnd::Heading(level)));
            }
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let dest_url = target(&dest_url, &to);
                gone.push(dest_url.is_none());
                if let Some(dest_url) = dest_url {
                    shown.push(Event::Start(Tag::Link { link_type, dest_url: dest_url.into(), title, id }));
                }
            }
            Event::End(TagEnd::Link) if gone.pop() == Some(true) => {}
            // Long ones are scrolled, also by who has no mouse.
            Event::Start(Tag::Table(alignments)) => {
                shown.push(Event::Html(
                    "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Table\">".into(),
                ));
                shown.push(Event::Start(Tag::Table(alignments)));
            }
            Event::End(TagEnd::Table) => {
                shown.push(Event::End(TagEnd::Table));
                shown.push(Event::Html("</div>".into()));
            }
            Event::Text(text) | Event::Code(text) if is_in_title => {
                title.push_str(&text);
                shown.push(Event::Text(text));
            }
            event => shown.push(event),
        }
    }
    let mut page = String::new();
    html::push_html(&mut page, shown.into_iter());
    Rendered { title, html: page.replace("<pre>", "<pre tabindex=\"0\">") }
}

fn target(url: &str, to: impl Fn(&str) -> Option<String>) -> Option<String> {
    if url.starts_with('#') || url.starts_with("https://") || url.starts_with("http://") {
        return Some(url.to_owned());
    }
    let (file, anchor) = url.split_once('#').map_or((url, None), |(file, anchor)| (file, Some(anchor)));
    let target = to(file)?;
    Some(anchor.map_or(target.clone(), |anchor| format!("{target}#{anchor}")))
}

/// What headings are called in addresses, as on the forges where the documents are
/// read, too: lower case, hyphens for spaces, a number behind what comes twice.
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
                let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                let id: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
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
    fn headings_are_found_and_links_lead_somewhere() {
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
