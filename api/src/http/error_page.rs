//! The reason in an HTML page, which servers, their frameworks and proxies send with an error.
//!
//! bottle, the framework of the VNC API server, has the reason in a `<pre>` below a style sheet and
//! the requested address. Other pages say it in their text.

use std::ops::Range;

/// How much of a page is looked at.
const MAX_PAGE_BYTES: usize = 64 << 10;
/// Elements whose content is no text.
const HIDDEN: [&str; 3] = ["head", "style", "script"];

/// The reason in a page, in one line and not escaped; `None` if the body is no HTML, or says nothing.
pub(super) fn reason(body: &[u8]) -> Option<String> {
    let page = String::from_utf8_lossy(&body[..body.len().min(MAX_PAGE_BYTES)]);
    let page = page.trim_start();
    if !page.starts_with('<') {
        return None;
    }
    // As long as the page: only ASCII letters are replaced.
    let lower = page.to_ascii_lowercase();
    let text = match element(&lower, "pre", 0) {
        Some(pre) => text(&page[pre.content]),
        None => text(&without_hidden(page, &lower)),
    };
    (!text.is_empty()).then_some(text)
}

/// Where an element of a page is.
struct Element {
    /// With its tags.
    whole: Range<usize>,
    content: Range<usize>,
}

/// The first element of this name from a place on. Without an end, it ends with the page.
fn element(lower: &str, name: &str, mut from: usize) -> Option<Element> {
    let open = format!("<{name}");
    let start = loop {
        let start = from + lower[from..].find(&open)?;
        from = start + open.len();
        let next = lower[from..].chars().next();
        if next.is_none_or(|next| next == '>' || next.is_ascii_whitespace()) {
            break start;
        }
    };
    let behind = |from: usize| {
        lower[from..]
            .find('>')
            .map_or(lower.len(), |end| from + end + 1)
    };
    let content = behind(start);
    let close = lower[content..].find(&format!("</{name}"));
    let end = close.map_or(lower.len(), |close| content + close);
    Some(Element {
        whole: start..behind(end),
        content: content..end,
    })
}

fn without_hidden(page: &str, lower: &str) -> String {
    let mut shown = String::with_capacity(page.len());
    let mut from = 0;
    let mut next: [Option<Element>; HIDDEN.len()] = HIDDEN.map(|name| element(lower, name, 0));
    loop {
        let first = next
            .iter()
            .flatten()
            .map(|element| element.whole.clone())
            .min_by_key(|whole| whole.start);
        let Some(hidden) = first else {
            break;
        };
        shown.push_str(&page[from..hidden.start]);
        shown.push(' ');
        from = hidden.end;
        for (name, element_of_name) in HIDDEN.iter().zip(&mut next) {
            if element_of_name
                .as_ref()
                .is_some_and(|element| element.whole.start < from)
            {
                *element_of_name = element(lower, name, from);
            }
        }
    }
    shown.push_str(&page[from..]);
    shown
}

/// The text of HTML without its tags, with references to characters replaced and white space
/// collapsed.
fn text(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(at) = rest.find(['<', '&']) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with('<') {
            // Blocks and line breaks separate words.
            text.push(' ');
            rest = rest.find('>').map_or("", |end| &rest[end + 1..]);
        } else {
            let (character, length) = reference(rest).unwrap_or(('&', 1));
            text.push(character);
            rest = &rest[length..];
        }
    }
    text.push_str(rest);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// The character that the text refers to at its beginning, and the length of the reference.
fn reference(text: &str) -> Option<(char, usize)> {
    /// Longer than every reference below.
    const MAX_BYTES: usize = 12;
    let end = text.bytes().take(MAX_BYTES).position(|byte| byte == b';')?;
    let name = &text[1..end];
    let character = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        _ => {
            let number = name.strip_prefix('#')?;
            let number = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(number)?
        }
    };
    Some((character, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(page: &str) -> Option<String> {
        reason(page.as_bytes())
    }

    #[test]
    fn reason_is_in_the_pre_of_a_page() {
        let page = "\n <!DOCTYPE HTML>\n<html><head><title>Error: 412 Precondition Failed</title>\
                    <style>pre {x: y}</style></head><body><h1>Error</h1><p>Sorry, the requested URL \
                    <tt>&#039;http://h/x?a=&lt;pre&gt;&#039;</tt></p><pre>quota limit (1)\n exceeded \
                    for &#x27;a&#39; &lt;b&gt; &amp;amp; &unknown; &</pre><pre>trace</pre></body></html>";
        assert_eq!(
            of(page).unwrap(),
            "quota limit (1) exceeded for 'a' <b> &amp; &unknown; &"
        );
        assert_eq!(of("<PRE class=a>x <b>y</b>").unwrap(), "x y");
    }

    #[test]
    fn page_without_pre_is_its_text() {
        let page = "<html><head><title>502 Bad Gateway</title></head><script>if (a < b) {}</script>\
                    <body><center><h1>502 Bad Gateway</h1></center><hr>nginx&nbsp;1</body></html>";
        assert_eq!(of(page).unwrap(), "502 Bad Gateway nginx 1");
        assert_eq!(of("<html></html>"), None);
        assert_eq!(of("plain <pre>text</pre>"), None);
        assert_eq!(of("{\"error\": 1}"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn reason_forges_no_line_and_no_terminal_sequence() {
        let page = "<pre>a&#10;ERROR forged &#27;[31m \u{9b}1m</pre>";
        assert_eq!(
            crate::text::excerpt(of(page).unwrap().as_bytes()),
            "a ERROR forged \\u{1b}[31m \\u{9b}1m"
        );
    }

    #[test]
    fn any_bytes_are_a_reason_or_none() {
        for page in [
            "<",
            "<pre",
            "<pre ",
            "<pre>",
            "<pre>&",
            "<pre>&#;",
            "<a",
            "<pre></pr",
            "<é&é;",
        ] {
            let _ = of(page);
        }
        let long = format!("<html>{}<pre>late</pre>", "<p>x".repeat(100_000));
        assert!(of(&long).unwrap().starts_with("x x"));
        let _ = reason(&[
            b'<', 0xff, b'&', 0xff, b';', b'<', b'p', b'r', b'e', b'>', 0xc3,
        ]);
    }
}
