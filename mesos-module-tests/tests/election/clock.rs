//! Wall clocks that jump by years, forward and back, while a manager leads.

use anyhow::{Result, ensure};

use super::fixture::{Fixture, SESSION_TIMEOUT};

#[test]
fn leadership_survives_wall_clock_jumps() -> Result<()> {
    let fixture = Fixture::start(2)?;
    let leader = fixture.managers.leader()?;
    let standby = 1 - leader;
    let address = fixture.managers.put("a", &[])?.ports[0].addresses[0].address;
    let terms = fixture.terms(leader)?;
    for offset in ["+3650d", "-3650d", "+20d", "-1h", "+0"] {
        let changes = fixture.changes();
        for index in [leader, standby] {
            fixture.set_clock(index, offset)?;
        }
        // Long enough for lease and session to expire if they were not renewed.
        std::thread::sleep(SESSION_TIMEOUT * 2);
        ensure!(
            fixture.managers.leader()? == leader,
            "{offset}: {}",
            fixture.managers.logs()
        );
        assert_eq!(fixture.changes(), changes, "{offset}");
        let again = fixture.managers.put("a", &[])?;
        assert_eq!(again.ports[0].addresses[0].address, address, "{offset}");
        assert_eq!(fixture.changes(), changes, "{offset}");
        // The leader still writes.
        fixture.managers.put(offset, &[])?;
        fixture.managers.delete(offset)?;
        ensure!(fixture.changes() > changes, "{offset}");
    }
    assert_eq!(fixture.terms(leader)?, terms, "{}", fixture.managers.logs());
    // The managers did see other times.
    ensure!(
        fixture.years(leader).len() >= 3,
        "{:?}",
        fixture.years(leader)
    );
    fixture.managers.delete("a")?;
    fixture.check_one_writer()
}
