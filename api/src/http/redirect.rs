//! Which redirects to a leader are followed, with credentials.
//!
//! Credentials are sent to configured servers and, unless the configuration forbids it, to others
//! with the same scheme and the same API path. They are never sent from TLS to plain text, nor to
//! another path: otherwise a compromised or forged server could have them sent anywhere.

use super::address::Address;

/// Which redirects are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirects {
    /// Also to servers that are not listed, if the scheme stays the same. Behind a load balancer
    /// only the balancer is listed, while the leader announces its own name.
    #[default]
    SameScheme,
    /// Only to listed servers.
    Listed,
}

/// A redirect that is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// The location is not the same path at another server.
    #[error("it redirects to {0:?}, which is not the same path of another server")]
    Elsewhere(String),
    /// The leader is not listed.
    #[error(
        "it redirects to {0}, which is not listed; list it, or allow servers that are not listed"
    )]
    NotListed(String),
    /// From TLS to plain text.
    #[error("it redirects from TLS to {0}; make the leader announce its https address")]
    Downgrade(String),
    /// Too many redirects.
    #[error("redirected {0} times without finding a leader")]
    Loop(usize),
}

impl Redirects {
    /// The server that `location` names in the response of `from` to a request for `path`.
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
        let url = if location.starts_with("//") {
            format!("{}:{location}", from.scheme())
        } else {
            location.to_owned()
        };
        if !url.contains("://") {
            return Err(elsewhere());
        }
        let path = path.split('?').next().unwrap_or(path);
        let page = url.split(['?', '#']).next().unwrap_or(&url);
        let server = page.strip_suffix(path).ok_or_else(elsewhere)?;
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
    fn redirect_target_should_be_the_announced_leader() {
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
    fn redirects_should_refuse_other_paths_and_untrusted_servers() {
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
