use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::testing::{gpu, randn};
use crate::{Device, Tensor};

fn assert_shared_values_are_not_written(device: &Device) {
    let mut weight = randn(&[4], 0).to_device(device);
    let write = |weight: &mut Tensor| {
        catch_unwind(AssertUnwindSafe(|| weight.write(0, &randn(&[2], 1).to_device(device), 0..2))).is_ok()
    };
    let held_by_a_tape = weight.clone();
    assert!(!write(&mut weight), "a weight changed under a forward pass");
    assert_eq!(held_by_a_tape.host(), randn(&[4], 0).host());
    drop(held_by_a_tape);
    assert!(write(&mut weight));
    assert_eq!(weight.host()[..2], randn(&[2], 1).data()[..]);
}

#[test]
fn the_optimizer_does_not_write_to_a_weight_that_a_tape_shares() {
    assert_shared_values_are_not_written(&Device::Cpu);
}

#[test]
fn the_optimizer_does_not_write_to_a_shared_weight_on_the_gpu() {
    let Some(device) = gpu() else { return };
    assert_shared_values_are_not_written(&device);
}

/// Two handles of one card stand for two cards, since each has a stream of its own.
#[test]
fn values_go_from_one_gpu_to_another() {
    let Some(here) = gpu() else { return };
    let there = Device::cuda(0).unwrap();
    let is_there = |tensor: &Tensor| match (tensor.device(), &there) {
        (Device::Gpu(found), Device::Gpu(there)) => found.is(there),
        _ => false,
    };
    let weight = randn(&[300, 8], 0).to_device(&here);
    for tensor in [weight.to_activation(), weight] {
        let copy = tensor.to_device(&there);
        assert!(is_there(&copy) && !is_there(&tensor));
        assert_eq!(copy.dtype(), tensor.dtype());
        assert_eq!(copy.host(), tensor.host());
        assert_eq!(
            copy.to_device(&there).slice().address(),
            copy.slice().address(),
            "a copy on the same GPU"
        );
    }
}

/// Opens and closes the GPU 40 times. A workspace of cuBLASLt is 32 MiB; half of what 40 of them take is left to tests
/// that run at the same time.
#[test]
fn a_gpu_that_is_closed_gives_its_memory_back() {
    let Some(Device::Gpu(kept)) = gpu() else { return };
    let before = crate::cuda::Cuda::of(&kept).used_bytes();
    for _ in 0..40 {
        let device = Device::cuda(0).unwrap();
        let [x, w] = [0, 1].map(|seed| randn(&[64, 64], seed).to_device(&device).to_activation());
        crate::Tape::off().linear(&x, &w).host();
    }
    let grown = crate::cuda::Cuda::of(&kept).used_bytes().saturating_sub(before);
    assert!(grown < 40 * (16 << 20), "{grown} bytes are still used");
}
