//! How often strangers make us log.

use kcp_core::Timestamp;

use crate::logs::LogLimit;

#[test]
fn one_line_a_second_says_how_many_were_left_out() {
    let limit = LogLimit::default();
    assert_eq!(limit.permit(Timestamp::ZERO), Some(0));
    for _ in 0..5 {
        assert_eq!(limit.permit(Timestamp::from_micros(999_999)), None);
    }
    assert_eq!(limit.permit(Timestamp::from_millis(1000)), Some(5));
    assert_eq!(limit.permit(Timestamp::from_millis(1000)), None);
    assert_eq!(limit.permit(Timestamp::from_millis(3000)), Some(1));
}
