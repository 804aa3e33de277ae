//! The parameters of a request, after the `?` of its path.

use std::collections::BTreeMap;

use crate::text::Quoted;

/// The parameters of a request. Empty ones count as missing, as forms send them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryParameters(BTreeMap<&'static str, String>);

impl QueryParameters {
    /// Parses a query of which these parameters are known. Another one is an error, because who
    /// sends it expects an effect.
    pub fn parse(query: Option<&str>, known: &[&'static str]) -> Result<Self, String> {
        let mut parameters = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let Some(name) = known.iter().find(|known| **known == name) else {
                let name = Quoted(name.as_bytes());
                return Err(match known {
                    [] => format!("unknown parameter {name}; this path takes none"),
                    _ => format!("unknown parameter {name}; known are: {}", known.join(", ")),
                });
            };
            if parameters.insert(*name, value.into_owned()).is_some() {
                return Err(format!("the parameter {name} is there twice"));
            }
        }
        parameters.retain(|_, value| !value.trim().is_empty());
        Ok(Self(parameters))
    }

    /// The value of a parameter.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// The parsed value of a parameter.
    pub fn take_parsed<T: std::str::FromStr>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, String> {
        self.take(name)
            .map(|text| {
                text.trim()
                    .parse()
                    .map_err(|_| format!("{name}={} is not {expected}", Quoted(text.as_bytes())))
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        let parse = |query: &str| QueryParameters::parse(Some(query), &["limit", "after"]);
        let mut parameters = parse("limit=5&after=").unwrap();
        assert_eq!(parameters.take("limit").as_deref(), Some("5"));
        assert_eq!(parameters.take("after"), None);
        let unknown = parse("limt=5").unwrap_err();
        assert!(
            unknown.contains("\"limt\"; known are: limit, after"),
            "{unknown}"
        );
        assert!(parse("limit=1&limit=2").unwrap_err().contains("twice"));
        assert!(parse("%ff=1").is_err() && parse("x\u{1b}=1").unwrap_err().contains("\\u{1b}"));
        let none = QueryParameters::parse(Some("x"), &[]).unwrap_err();
        assert!(none.contains("takes none"), "{none}");
        assert_eq!(
            QueryParameters::parse(None, &[]),
            Ok(QueryParameters::default())
        );
    }

    #[test]
    fn value_that_cannot_be_parsed_is_named() {
        let mut parameters = QueryParameters::parse(Some("limit=x"), &["limit"]).unwrap();
        let error = parameters
            .take_parsed::<u8>("limit", "a number")
            .unwrap_err();
        assert_eq!(error, "limit=\"x\" is not a number");
    }
}
