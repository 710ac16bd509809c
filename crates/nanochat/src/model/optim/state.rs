//! The optimizer state of a checkpoint: complete, by parameter name, independent of the number of ranks.

use std::collections::BTreeMap;

use nanochat_tensor::{Device, Tensor};

use super::Optimizer;

impl Optimizer {
    /// Gathers the state as named tensors, `{parameter}.{exp_avg|exp_avg_sq|momentum_buffer}`, in the parameters'
    /// shapes, on the first rank. All ranks must call this together.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let (comm, mut tensors) = (&self.comm, Vec::new());
        for (shard, state) in self.shards.iter().zip(&self.state) {
            for (i, name) in shard.group.rule.state_names().iter().enumerate() {
                let part = state.get(i).cloned().unwrap_or_else(|| self.zeros(shard.part));
                let whole = comm.all_gather(part).wait();
                if comm.rank() > 0 {
                    continue;
                }
                for (param, place) in shard.places(|param| self.len(param)) {
                    let (param, shape) = &self.params[param];
                    let tensor = match place.len() == whole.len() {
                        true => whole.reshape(shape),
                        false => Tensor::new(whole.host()[place].to_vec(), shape),
                    };
                    // Moved to the CPU, since a rank's GPU may have no memory for the other ranks' state.
                    let tensor = if comm.world_size() > 1 { tensor.to_device(&Device::Cpu) } else { tensor };
                    tensors.push((format!("{param}.{name}"), tensor));
                }
            }
        }
        tensors
    }

    /// Restores this rank's part from what `tensors` and `steps` returned. An error names the first tensor that is
    /// missing or has another shape.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>, steps: u64) -> Result<(), String> {
        let find = |(param, shape): &(String, Vec<usize>), name: &str| {
            let name = format!("{param}.{name}");
            match tensors.get(&name) {
                Some(tensor) if tensor.shape() == shape => Ok(tensor),
                Some(tensor) => Err(format!("{name} has shape {:?} instead of {shape:?}", tensor.shape())),
                None => Err(format!("{name} is missing")),
            }
        };
        for (shard, state) in self.shards.iter().zip(&mut self.state) {
            for (i, name) in shard.group.rule.state_names().iter().enumerate() {
                for &param in &shard.params {
                    let whole = find(&self.params[param], name)?;
                    if let Some((_, range)) = shard.mine.as_ref().filter(|(mine, _)| *mine == param) {
                        let mine = Tensor::new(whole.data()[range.clone()].to_vec(), &[range.len()]);
                        let mine = mine.to_device(&state[i].device());
                        state[i].write(0, &mine, 0..range.len());
                    }
                }
            }
        }
        self.steps = steps;
        Ok(())
    }

    fn len(&self, param: usize) -> usize {
        self.params[param].1.iter().product()
    }

    fn zeros(&self, part: usize) -> Tensor {
        let device = self.state.iter().flatten().next().map_or(Device::Cpu, Tensor::device);
        Tensor::zeros_on(&device, &[part])
    }
}
