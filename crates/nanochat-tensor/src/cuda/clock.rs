//! The clock of a GPU's stream, by CUDA events.

use std::rc::Rc;

use cudarc::driver::CudaEvent;

use super::Cuda;
use crate::profile::{Clock, Event};

impl Clock for Cuda {
    fn mark(&self) -> Event {
        Rc::new(self.event())
    }

    fn milliseconds(&self, from: &Event, to: &Event) -> f32 {
        let [from, to] =
            [from, to].map(|event| event.downcast_ref::<CudaEvent>().expect("an event of this clock"));
        self.milliseconds(from, to)
    }

    fn wait(&self) {
        self.synchronize();
    }
}
