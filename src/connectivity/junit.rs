//! The report as `JUnit` XML, for programs of continuous integration.

use std::fmt::Write as _;

use super::{CheckResult, Report};

impl Report {
    /// The report as `JUnit` XML: a suite for each network.
    #[must_use]
    pub fn junit(&self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let count = |result| {
            let checks = self.checks.iter();
            checks.filter(|check| check.result == result).count()
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            xml,
            "<testsuites name=\"contrail-mesos connectivity\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">",
            self.checks.len(),
            count(CheckResult::Failed),
            count(CheckResult::Skipped)
        );
        let mut networks: Vec<&str> = self.checks.iter().map(|check| &*check.network).collect();
        networks.dedup();
        for network in networks {
            let of_network = || self.checks.iter().filter(|check| check.network == network);
            let count = |result| of_network().filter(|check| check.result == result).count();
            let _ = writeln!(
                xml,
                "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">",
                escaped(network),
                of_network().count(),
                count(CheckResult::Failed),
                count(CheckResult::Skipped)
            );
            for check in of_network() {
                let family = check
                    .family
                    .map_or_else(String::new, |family| format!(" {family}"));
                let text = escaped(&check.text);
                let _ = write!(
                    xml,
                    "    <testcase classname=\"{}\" name=\"{}{family}\"",
                    escaped(network),
                    check.check
                );
                let _ = match check.result {
                    CheckResult::Ok => writeln!(xml, "/>"),
                    CheckResult::Failed => {
                        let cause = escaped(check.cause.as_deref().unwrap_or_default());
                        writeln!(
                            xml,
                            "><failure type=\"{cause}\" message=\"{text}\"/></testcase>"
                        )
                    }
                    CheckResult::Skipped => {
                        writeln!(xml, "><skipped message=\"{text}\"/></testcase>")
                    }
                };
            }
            xml.push_str("  </testsuite>\n");
        }
        xml.push_str("</testsuites>\n");
        xml
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no way to write them.
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::ConnectivityCheck;
    use super::*;

    #[test]
    fn networks_are_suites_and_texts_are_escaped() {
        let check = |network: &str, result, text: &str| ConnectivityCheck {
            network: network.to_owned(),
            check: "tcp",
            family: Some("ipv4"),
            result,
            text: text.to_owned(),
            cause: None,
        };
        let report = Report {
            checks: vec![
                check("blue", CheckResult::Ok, "good"),
                check("blue", CheckResult::Failed, "a < b & \"c\"\u{1b}"),
                check("red", CheckResult::Skipped, "no address"),
            ],
            left: vec![],
        };
        assert_eq!(
            report.junit(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuites name=\"contrail-mesos connectivity\" tests=\"3\" failures=\"1\" skipped=\"1\">\n  \
             <testsuite name=\"blue\" tests=\"2\" failures=\"1\" skipped=\"0\">\n    \
             <testcase classname=\"blue\" name=\"tcp ipv4\"/>\n    \
             <testcase classname=\"blue\" name=\"tcp ipv4\"><failure type=\"\" message=\"a &lt; b &amp; \
             &quot;c&quot;\u{fffd}\"/></testcase>\n  </testsuite>\n  \
             <testsuite name=\"red\" tests=\"1\" failures=\"0\" skipped=\"1\">\n    \
             <testcase classname=\"red\" name=\"tcp ipv4\"><skipped message=\"no address\"/></testcase>\n  \
             </testsuite>\n</testsuites>\n"
        );
    }
}
