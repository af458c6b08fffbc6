//! What all sessions may hold together.

use kcp_core::Held;

use crate::budget::Budget;

const fn held(received: usize, sent: usize) -> Held {
    Held { received, sent }
}

#[test]
fn the_first_half_is_free_and_the_second_is_shared() {
    let budget = Budget::new(1000, 400);
    assert_eq!(budget.share(4, held(0, 0)), held(500, 200));
    budget.account(held(0, 0), held(400, 100));
    assert_eq!(budget.share(4, held(400, 100)), held(500, 200), "what is left of it, on top of its own");
    budget.account(held(400, 100), held(490, 195));
    assert_eq!(budget.share(4, held(0, 0)), held(25, 10), "a part of the second half: one in 4 + 16");
    budget.account(held(0, 0), held(110, 105));
    assert_eq!(budget.share(4, held(110, 105)), held(110, 105), "what it has stays");
    assert_eq!(budget.share(4, held(0, 0)), held(20, 5));
    budget.account(held(0, 0), held(400, 100));
    assert_eq!(budget.share(4, held(0, 0)), held(0, 0));
    budget.account(held(1000, 400), held(0, 0));
    assert_eq!(budget.held(), held(0, 0));
}

#[test]
fn a_thousand_that_never_read_leave_something_for_the_next() {
    let budget = Budget::new(1 << 30, 0);
    for n in 1..=1000 {
        let share = budget.share(n, held(0, 0)).received.min(8 << 20);
        budget.account(held(0, 0), held(share, 0));
    }
    assert!(budget.held().received < 1 << 30);
    assert!(budget.share(1001, held(0, 0)).received > 20 * 1376, "{:?}", budget.share(1001, held(0, 0)));
}
