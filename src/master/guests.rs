//! What the master does for processes that come by socket, see [`crate::guests`].

use std::sync::Arc;

use super::Master;

impl Master {
    /// Slots of guests whose connection has ended. Like the kernel's word for a death: by then the
    /// process can write nothing any more.
    pub(super) fn slots_of_departed(&mut self) -> Vec<usize> {
        let hub = Arc::clone(&self.hub);
        let mut dead = Vec::new();
        for departed in hub.guests.departed(&self.epoll) {
            for slot in departed.slots {
                // It may have been killed between claiming the slot and ringing.
                self.look_at(slot);
                if self.router().owner_pid(slot) == Some(departed.pid) {
                    dead.push(slot);
                }
            }
        }
        dead
    }

    /// Takes in who has come, and gives seats. `anew`: descriptors may be there that this master
    /// does not watch yet.
    pub(super) fn serve_guests(&mut self, anew: bool) {
        let hub = Arc::clone(&self.hub);
        if anew {
            hub.guests.enroll(&self.epoll);
        }
        let Some(router) = &self.router else {
            return;
        };
        let is_free =
            |slot| hub.view.slot(slot).load().is_free() && router.owner_pid(slot).is_none();
        hub.guests.serve(&self.epoll, &hub, is_free);
    }
}
