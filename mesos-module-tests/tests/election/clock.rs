//! Clocks on the wall that jump by years, forward and back, while a manager leads.

use anyhow::{Result, ensure};

use super::bed::{Bed, SESSION};

#[test]
fn a_clock_that_jumps_changes_nothing() -> Result<()> {
    let bed = Bed::start(2)?;
    let leader = bed.leader()?;
    let standby = 1 - leader;
    let address = bed.make("a")?.ports[0].addresses[0].address;
    let terms = bed.terms(leader);
    for offset in ["+3650d", "-3650d", "+20d", "-1h", "+0"] {
        let changes = bed.changes();
        for index in [leader, standby] {
            bed.set_clock(index, offset)?;
        }
        // Long enough for a lease, and for a session, to run out if they were not renewed.
        std::thread::sleep(SESSION * 2);
        ensure!(bed.leader()? == leader, "{offset}: {}", bed.logs());
        assert_eq!(bed.changes(), changes, "{offset}");
        let again = bed.make("a")?;
        assert_eq!(again.ports[0].addresses[0].address, address, "{offset}");
        assert_eq!(bed.changes(), changes, "{offset}");
        // It goes on to write.
        bed.make(offset)?;
        bed.remove(offset)?;
        ensure!(bed.changes() > changes, "{offset}");
    }
    assert_eq!(bed.terms(leader), terms, "{}", bed.logs());
    // The clocks did jump.
    ensure!(bed.years(leader).len() >= 3, "{:?}", bed.years(leader));
    bed.remove("a")?;
    bed.check_one_writer()
}
