//! Where a server that does not lead sends us, and whether we go there with our credentials.
//!
//! Credentials go to a leader that the operator named, or, unless he forbids it, to one over the
//! same scheme under the same path of the API. Never from TLS to plain text, and never to another
//! page: a server that was taken over or imitated could otherwise have them sent anywhere.

use super::address::Address;

/// To which leaders one is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirects {
    /// Also to servers that are not listed, over the same scheme as the one that names them. A
    /// leader calls itself by a name of its own, and behind a balancer only that is listed.
    #[default]
    SameScheme,
    /// Only to servers that are listed.
    Listed,
}

/// A redirection that is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// There is no address in it.
    #[error("it redirects to {0:?}, which is no address of the same API")]
    Elsewhere(String),
    /// The leader is not listed.
    #[error("it redirects to {0}, which is not listed; list it, or allow others than those listed")]
    NotListed(String),
    /// From TLS to plain text.
    #[error("it redirects from TLS to {0}; make the leader announce its https address")]
    Downgrade(String),
    /// Servers send us on and on.
    #[error("redirected {0} times: no server leads")]
    Loop(usize),
}

impl Redirects {
    /// The server that `location` names, for the request of `path` to `from`.
    pub(super) fn target(
        self,
        from: &Address,
        listed: &[Address],
        location: Option<&str>,
        path: &str,
    ) -> Result<Address, RedirectError> {
        let location = location.unwrap_or_default();
        let elsewhere = || RedirectError::Elsewhere(location.chars().take(200).collect());
        // Masters leave the scheme out; the path of the API is the same everywhere.
        let whole = if location.starts_with("//") {
            format!("{}:{location}", from.scheme())
        } else {
            location.to_owned()
        };
        if !whole.contains("://") {
            return Err(elsewhere());
        }
        let asked = path.split('?').next().unwrap_or(path);
        let page = whole.split(['?', '#']).next().unwrap_or(&whole);
        let server = page.strip_suffix(asked).ok_or_else(elsewhere)?;
        let target = Address::parse(server, 80).map_err(|_| elsewhere())?;
        if let Some(known) = listed.iter().find(|known| known.is_at(&target)) {
            return Ok(known.with_prefix(target.prefix()));
        }
        match self {
            Self::Listed => Err(RedirectError::NotListed(target.to_string())),
            Self::SameScheme if from.is_secure() && !target.is_secure() => {
                Err(RedirectError::Downgrade(target.to_string()))
            }
            Self::SameScheme if from.is_secure() != target.is_secure() => {
                Err(RedirectError::NotListed(target.to_string()))
            }
            Self::SameScheme => Ok(target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "/v2/events?event_type=a";

    fn address(text: &str) -> Address {
        Address::parse(text, 8080).unwrap()
    }

    #[test]
    fn leaders_are_found() {
        let from = address("standby");
        for (location, leader) in [
            (
                "http://leader:8080/v2/events?event_type=a",
                "http://leader:8080",
            ),
            ("http://leader/v2/events", "http://leader:80"),
            ("//leader:8080/v2/events", "http://leader:8080"),
            (
                "http://proxy/marathon/v2/events",
                "http://proxy:80/marathon",
            ),
        ] {
            let target = Redirects::SameScheme.target(&from, &[], Some(location), EVENTS);
            assert_eq!(target.unwrap().to_string(), leader);
        }
    }

    #[test]
    fn credentials_go_nowhere_else() {
        let plain = address("standby");
        let secure = address("https://standby:8443");
        let listed = [address("leader")];
        let at = |from: &Address, rule: Redirects, location: &str| {
            rule.target(from, &listed, Some(location), EVENTS)
        };
        for location in [
            "",
            "/login",
            "/v2/events",
            "http://leader:8080/login?next=/v2/events",
            "http://leader:8080/v2/events/more",
            "http://user:password@leader:8080/v2/events",
            "ftp://leader/v2/events",
            "http:///v2/events",
        ] {
            let error = at(&plain, Redirects::SameScheme, location).unwrap_err();
            assert!(matches!(error, RedirectError::Elsewhere(_)), "{location}");
        }
        assert!(
            Redirects::SameScheme
                .target(&plain, &listed, None, EVENTS)
                .is_err()
        );

        let known = "http://LEADER:8080/v2/events";
        let other = "http://other:8080/v2/events";
        assert!(at(&plain, Redirects::Listed, known).is_ok());
        assert!(at(&secure, Redirects::Listed, known).is_ok());
        assert!(matches!(
            at(&plain, Redirects::Listed, other),
            Err(RedirectError::NotListed(_))
        ));
        assert!(matches!(
            at(&secure, Redirects::SameScheme, other),
            Err(RedirectError::Downgrade(_))
        ));
        assert!(at(&secure, Redirects::SameScheme, "https://other/v2/events").is_ok());
        assert!(at(&plain, Redirects::SameScheme, "https://other/v2/events").is_err());
    }
}
