//! The table `[overlay]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use contrail_mesos_api::config_reader::{ConfigError, Section};

use crate::overlay::OverlayConfig;

/// Where the state is kept if there is no ZooKeeper.
const STATE_FILE: &str = "/var/lib/contrail-mesos-manager/overlay.json";
/// A node that restarts is gone for a moment.
const MIN_RELEASE_AFTER: Duration = Duration::from_mins(10);

/// Overlay networks: the table `[overlay]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayOptions {
    /// The file of the overlays.
    pub file: PathBuf,
    /// Its content when the configuration was read.
    pub networks: OverlayConfig,
    /// The file with the state, if there is no ZooKeeper.
    pub state_file: PathBuf,
    /// How long a node must be gone before its subnets are free; never if none.
    pub release_after: Option<Duration>,
}

/// The table, if it is there. Its error has the problems of the file that it names; those of the
/// table itself are reported to `top`. Blocks.
pub(super) fn read(top: &Section<'_>) -> Result<Option<OverlayOptions>, ConfigError> {
    let Some(section) = top.section("overlay") else {
        return Ok(None);
    };
    let file = section.text("file", "the JSON file of the overlays");
    if !section.has("file") {
        section.problem("file", "is missing: the JSON file of the overlays");
    }
    let state_file = section
        .text("state_file", "a file that the manager creates")
        .map_or_else(|| PathBuf::from(STATE_FILE), PathBuf::from);
    if !state_file.is_absolute() || state_file.file_name().is_none() {
        section.problem("state_file", "expected an absolute path of a file");
    }
    if top.has("zookeeper") && section.has("state_file") {
        let message = "is not used: with [zookeeper] the state is there";
        section.warning("state_file", message);
    }
    let release_after = section.duration("release_after", MIN_RELEASE_AFTER);
    if release_after < MIN_RELEASE_AFTER {
        let message = "expected a time of at least \"10m\": the containers of a node that is back would \
                       have addresses that others were given";
        section.problem("release_after", message);
    }
    let release_after = section.has("release_after").then_some(release_after);
    let path = file.as_deref().map(Path::new);
    let is_absent = path.is_some_and(|path| section.is_absent_offline("file", path));
    section.finish();
    let Some(file) = file.map(PathBuf::from) else {
        return Ok(None);
    };
    if is_absent {
        return Ok(None);
    }
    let networks = OverlayConfig::load(Path::new(&file))?;
    Ok(Some(OverlayOptions {
        file,
        networks,
        state_file,
        release_after,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const NETWORKS: &str = r#"{"vtep_subnet": "44.128.0.0/16", "vtep_mac_oui": "70:B3:D5:00:00:00",
        "overlays": [{"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24}]}"#;

    fn parse(table: &str) -> Result<Config, Vec<String>> {
        let text = format!("[vnc]\nservers = [\"a\"]\n{table}");
        Config::parse(Path::new("m.toml"), &text)
            .map_err(|error| error.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn file_of_the_overlays_is_part_of_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("overlay.json");
        std::fs::write(&path, NETWORKS).unwrap();
        let file = format!("[overlay]\nfile = {path:?}\n");
        let overlay = parse(&file).unwrap().overlay.unwrap();
        assert_eq!(overlay.networks.overlays[0].name, "dcos");
        assert_eq!(overlay.state_file, Path::new(STATE_FILE));
        assert_eq!((overlay.file, overlay.release_after), (path.clone(), None));
        let more = format!("{file}state_file = \"/s/o.json\"\nrelease_after = \"60m\"\n");
        let overlay = parse(&more).unwrap().overlay.unwrap();
        assert_eq!(overlay.state_file, Path::new("/s/o.json"));
        assert_eq!(overlay.release_after, Some(Duration::from_hours(1)));
        let more = format!("{more}[zookeeper]\nservers = \"zk://a:1/b\"\n");
        let warnings = parse(&more).unwrap().warnings;
        assert_eq!(
            (warnings.len(), warnings[0].key.as_str()),
            (1, "overlay.state_file")
        );
        assert!(parse("").unwrap().overlay.is_none());

        // The problems of both files at once.
        std::fs::write(&path, NETWORKS.replace("9.0.0.0/8", "9.0.0.1/8")).unwrap();
        let problems = parse(&format!("{file}relase_after = \"60m\"\n")).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].contains("did you mean \"release_after\""),
            "{problems:?}"
        );
        assert!(problems[1].contains("overlay.json:2:"), "{problems:?}");
        std::fs::write(
            &path,
            NETWORKS.replace("\"prefix\"", "\"zk\": {}, \"prefix\""),
        )
        .unwrap();
        let problems = parse(&file).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn table_is_validated() {
        for (table, expected) in [
            ("[overlay]", "overlay.file: is missing"),
            (
                "[overlay]\nfile = \"/none.json\"",
                "/none.json: cannot read the file of the overlays",
            ),
            (
                "[overlay]\nfile = 1",
                "overlay.file: expected the JSON file",
            ),
            ("overlay = 1", "overlay: expected a table"),
            (
                "[overlay]\nfile = \"/none.json\"\nstate_file = \"x\"",
                "overlay.state_file: expected an absolute path",
            ),
            (
                "[overlay]\nfile = \"/none.json\"\nrelease_after = \"1m\"",
                "overlay.release_after: expected a time",
            ),
        ] {
            // A key at the top comes before the first table.
            let problems = if table.starts_with('[') {
                parse(table).unwrap_err()
            } else {
                let text = format!("{table}\n[vnc]\nservers = [\"a\"]\n");
                let error = Config::parse(Path::new("m.toml"), &text).unwrap_err();
                error.problems.iter().map(ToString::to_string).collect()
            };
            assert!(
                problems.concat().contains(expected),
                "{table}: {problems:?}"
            );
        }
    }
}
