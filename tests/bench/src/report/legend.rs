//! The words of the report.

use super::document::{Block, Text};
use crate::candidate::{FLOOR, HOST_BIG, LIMIT};

const HOST: &str = "processes of the hosts themselves, without containers: the limit of what a network of \
    containers can reach.";
const RATIO: &str = "a value divided by another candidate's of the same round; by the host's, unless said \
    otherwise.";
const SPAN: &str = "the least and the most of all rounds, beside their median. Where spans overlap, nothing \
    is faster.";
const WIDE: &str = "of values that spread too far to compare: the middle half of the values, or all of fewer than eight, is \
    wider than a quarter of the median.";
const PINNED: &str = "client and server each have a processor of its own; elsewhere the kernel moves them.";
const FLOOR_IS: &str = ", programs at the hooks of Margay's that do nothing but redirect: about what can be \
    reached there. With BIG TCP it is ";
const PLOTS: &str = "on the page only. Bars are medians of ratios, and the black line on each is the span.";

/// What they mean, below a heading.
pub fn blocks() -> [Block; 2] {
    let items = [
        item(LIMIT).plain(HOST),
        item("ratio").plain(RATIO),
        item("span").plain(SPAN),
        item("wide").plain(WIDE),
        item("pinned").plain(PINNED),
        item("floor").code(FLOOR).plain(FLOOR_IS).code(HOST_BIG).plain("."),
        item("plots").plain(PLOTS),
    ];
    [Block::heading(2, "Words"), Block::List(items.into())]
}

fn item(word: &str) -> Text {
    Text::default().strong(word).plain(": ")
}
