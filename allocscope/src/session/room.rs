//! Slots of processes that have ended, for processes that come.

use super::Session;
use allocscope_common::counter::LossReason;

impl Session {
    /// A process that has ended keeps its slot until a scrape has seen it, but not at the expense of one that runs. Where
    /// no scrape is waited for the final report tells of all.
    pub(super) fn make_room(&mut self) {
        let slots = self.options.max_processes as usize;
        if self.options.selection.is_some() && self.aggregator.make_room(slots) {
            self.free_retired();
        }
    }

    /// Looks again for processes that there was no slot for, once there is one.
    pub(super) fn trace_turned_away(&mut self) {
        let turned_away = self.over_limit + self.maps.lost(LossReason::SlotsExhausted);
        let has_room = self.aggregator.free(self.options.max_processes as usize) > 0;
        if turned_away == self.turned_away || !has_room {
            return;
        }
        let counted = self.over_limit;
        if let Err(error) = self.trace_selected() {
            log::debug!("{error:#}");
        }
        // Each was counted when it was turned away.
        self.over_limit = counted;
        self.turned_away = turned_away;
    }
}
