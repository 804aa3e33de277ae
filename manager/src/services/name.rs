//! DNS names from the names that frameworks, tasks and services have: the rules of DC/OS.
//!
//! | written | name |
//! |---|---|
//! | `/my-service` | `my-service` |
//! | `/group/app` | `groupapp`: slashes vanish |
//! | `/api.hello-world` | `api.hello-world`: dots stay |
//! | `My_App` | `my-app` |
//! | `dev/marathon-2` | `devmarathon-2` |
//!
//! A task's name and its framework's are one label each, so dots become hyphens: the task `app.group` of
//! the framework `marathon` is `app-group.marathon`.

/// The longest label of DNS, in bytes.
const MAX_LABEL_BYTES: usize = 63;

/// One DNS label: lower-case letters, digits and inner hyphens; empty if nothing of the text is left.
/// Underscores and dots become hyphens, every other character vanishes. What follows the 63rd character is
/// cut, and a hyphen there gives way to the letters and digits that follow.
pub(super) fn label(text: &str) -> String {
    let mut label = String::new();
    let mut is_cut = false;
    for character in text.chars() {
        let character = character.to_ascii_lowercase();
        let is_plain = character.is_ascii_lowercase() || character.is_ascii_digit();
        if label.len() == MAX_LABEL_BYTES && !is_cut {
            label.truncate(label.trim_end_matches('-').len());
            is_cut = true;
        }
        if label.len() == MAX_LABEL_BYTES {
            break;
        }
        if is_plain {
            label.push(character);
        } else if matches!(character, '-' | '_' | '.') && !label.is_empty() && !is_cut {
            label.push('-');
        }
    }
    label.truncate(label.trim_end_matches('-').len());
    label
}

/// One DNS label for each part between dots that has one; empty if none has.
pub(super) fn labels(text: &str) -> String {
    let labels = text.split('.').map(label);
    let labels: Vec<String> = labels.filter(|label| !label.is_empty()).collect();
    labels.join(".")
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::parser_testing::{assert_linear, for_damaged_input};

    use super::*;

    #[test]
    fn labels_are_those_of_dcos() {
        let nines = "9".repeat(62);
        for (written, expected) in [
            ("/my-service", "my-service"),
            ("my-service", "my-service"),
            ("/group/app", "groupapp"),
            ("/api.hello-world", "api.hello-world"),
            ("My_App", "my-app"),
            ("dev/marathon-2", "devmarathon-2"),
            ("..a...b..", "a.b"),
            ("a.%%.b", "a.b"),
            ("-4abc123", "4abc123"),
            ("__a--b__", "a--b"),
            (
                "fd%gsf---gs7-f$gs--d7fddg-123",
                "fdgsf---gs7-fgs--d7fddg-123",
            ),
            // The hyphen at the cut gives way.
            (
                "$$fdgsf---gs7-fgs--d7fddg123456789012345678901234567890123456789-123",
                "fdgsf---gs7-fgs--d7fddg1234567890123456789012345678901234567891",
            ),
            (
                "%%fdgsf---gs7-fgs--d7fddg123456789012345678901234567890123456789---123",
                "fdgsf---gs7-fgs--d7fddg1234567890123456789012345678901234567891",
            ),
            (&format!("{nines}-"), &nines),
            (&format!("{nines}999"), &format!("{nines}9")),
            ("", ""),
            ("/", ""),
            ("%%%", ""),
            ("---", ""),
            ("日本", ""),
            ("ä-b", "b"),
            ("<script>alert(1)</script>", "scriptalert1script"),
            ("a\nb; drop \"x\" 'y' $(z)", "abdropxyz"),
        ] {
            assert_eq!(labels(written), expected, "{written:?}");
        }
        assert_eq!(label("app.group"), "app-group");
        assert_eq!(label("a.b_c"), "a-b-c");
    }

    #[test]
    fn damaged_input_never_panics() {
        for_damaged_input("/My_App.group-1.日本".as_bytes(), |input| {
            let text = String::from_utf8_lossy(input);
            let is_label = |label: &str| {
                (1..=MAX_LABEL_BYTES).contains(&label.len())
                    && label.bytes().all(|byte| {
                        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
                    })
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            };
            let labels = labels(&text);
            assert!(
                labels.is_empty() || labels.split('.').all(is_label),
                "{labels:?}"
            );
            let label = label(&text);
            assert!(label.is_empty() || is_label(&label), "{label:?}");
        });
    }

    #[test]
    fn long_names_take_linear_time() {
        for text in ["-", "a", ".", "a.", "é"] {
            assert_linear(text, 100_000, |size| {
                labels(&text.repeat(size));
                label(&text.repeat(size));
            });
        }
    }
}
