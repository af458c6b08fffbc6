//! How long what tasks write waits for the driver.

use std::sync::Arc;

use kcp_core::Timestamp;

use crate::agenda::{Agenda, Marked, Marks};

#[derive(Debug, Default)]
struct Item(Marks);

impl Marked for Arc<Item> {
    fn marks(&self) -> &Marks {
        &self.0
    }
}

#[test]
fn who_writes_again_and_again_does_not_put_off_what_was_first() {
    let at = Timestamp::from_micros;
    let agenda = Agenda::<Arc<Item>>::new(0);
    assert!(!agenda.gathers(at(0)));
    agenda.gather_once(at(300));
    assert!(agenda.gathers(at(299)));
    agenda.gather_once(at(400));
    assert!(!agenda.gathers(at(300)));
    agenda.gather_once(at(600));
    assert!(!agenda.gathers(at(500)), "the driver has not come");
    agenda.begin_turn();
    agenda.gather_once(at(600));
    assert!(agenda.gathers(at(599)) && !agenda.gathers(at(600)));
    agenda.gather(at(700));
    assert!(agenda.gathers(at(699)), "several were woken");
}
