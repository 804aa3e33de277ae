//! The page that the real server's web framework makes of an error without a handler: HTML, with
//! the reason in a `<pre>`. Statuses with a handler have the reason as plain text.

use axum::http::StatusCode;

/// The statuses whose errors are plain text.
const PLAIN: [u16; 7] = [400, 403, 404, 405, 409, 500, 503];

/// The body of an error response to a request for this URL.
pub(crate) fn body(status: u16, text: &str, url: &str) -> String {
    if PLAIN.contains(&status) {
        return text.to_owned();
    }
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Unknown");
    let url = escape(&super::python_repr::repr_str(url));
    let text = escape(text);
    format!(
        "\n    <!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML 2.0//EN\">\n    <html>\n        <head>\n            \
         <title>Error: {status} {reason}</title>\n            <style type=\"text/css\">\n              \
         pre {{background-color: #eee; padding: 5px;}}\n            </style>\n        </head>\n        \
         <body>\n            <h1>Error: {status} {reason}</h1>\n            <p>Sorry, the requested URL \
         <tt>{url}</tt>\n               caused an error:</p>\n            <pre>{text}</pre>\n        \
         </body>\n    </html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#039;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_without_handler_is_a_page() {
        assert_eq!(body(409, "a <b>", "/x"), "a <b>");
        let page = body(412, "quota limit (1) 'a' <b>", "http://h/x?a=b&c=d");
        assert!(
            page.contains("<pre>quota limit (1) &#039;a&#039; &lt;b&gt;</pre>"),
            "{page}"
        );
        assert!(
            page.contains("&#039;http://h/x?a=b&amp;c=d&#039;"),
            "{page}"
        );
        assert!(
            page.contains("<h1>Error: 412 Precondition Failed</h1>"),
            "{page}"
        );
    }
}
