//! The little Markdown that our own texts use, as HTML: headings, paragraphs, lists, blocks
//! of code, `code` and links. Must not be given texts of strangers.

use super::escape;

/// Renders a whole text.
pub(super) fn render(text: &str) -> String {
    let mut html = String::new();
    // What the lines at hand are part of, with the tag that ends it.
    let mut open: Option<&str> = None;
    let mut is_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            close(&mut html, &mut open);
            is_code = !is_code;
            html.push_str(if is_code { "<pre><code>" } else { "</code></pre>" });
        } else if is_code {
            html.push_str(&escape(line));
            html.push('\n');
        } else if line.trim().is_empty() {
            close(&mut html, &mut open);
        } else if let Some((marks, heading)) =
            line.split_once("# ").filter(|(marks, _)| marks.bytes().all(|b| b == b'#'))
        {
            close(&mut html, &mut open);
            let level = marks.len() + 1;
            html.push_str(&format!("<h{level}>{}</h{level}>", inline(heading)));
        } else if let Some(item) = line.strip_prefix("- ") {
            if open != Some("</li></ul>") {
                close(&mut html, &mut open);
                html.push_str("<ul>");
            } else {
                html.push_str("</li>");
            }
            open = Some("</li></ul>");
            html.push_str(&format!("<li>{}", inline(item)));
        } else {
            if open.is_none() {
                html.push_str("<p>");
                open = Some("</p>");
            } else {
                html.push(' ');
            }
            html.push_str(&inline(line.trim()));
        }
    }
    close(&mut html, &mut open);
    html
}

fn close(html: &mut String, open: &mut Option<&str>) {
    if let Some(end) = open.take() {
        html.push_str(end);
    }
}

/// `code` and `[links](…)` within a line.
pub(super) fn inline(text: &str) -> String {
    let mut html = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            html.push_str(&format!("<code>{}</code>", escape(part)));
        } else {
            html.push_str(&links(part));
        }
    }
    html
}

fn links(text: &str) -> String {
    let mut html = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((label, (target, after))) =
            after.split_once("](").and_then(|(label, after)| Some((label, after.split_once(')')?)))
        else {
            break;
        };
        html.push_str(&escape(before));
        // Pages of other codes are files beside one another in the repository.
        let target = target.strip_suffix(".md").unwrap_or(target);
        html.push_str(&format!("<a href=\"{}\">{}</a>", escape(target), escape(label)));
        rest = after;
    }
    html.push_str(&escape(rest));
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_our_texts_use_becomes_html() {
        let text = "# A `b`\n\nOne\ntwo <three>.\n\n- x\n- [y](Z.md)\n  goes on\n\n```json\n{\"a\": 1}\n```\n";
        assert_eq!(
            render(text),
            "<h1>A <code>b</code></h1><p>One two &lt;three&gt;.</p><ul><li>x</li><li><a href=\"Z\">y</a> goes on</li></ul>\
             <pre><code>{&quot;a&quot;: 1}\n</code></pre>"
        );
    }
}
