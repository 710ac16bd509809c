//! `nanochat doctor`: what training on a GPU needs, what of it is here, and how to get the rest.

use anyhow::Result;
use nanochat_tensor::Device;
use nanochat_tensor::cuda::libraries;

pub fn run() -> Result<()> {
    libraries::preload();
    for library in libraries::NEEDED {
        match libraries::find(library.name) {
            Some(path) => println!("{:<10} {path} ({})", library.name, library.what_for),
            None => println!(
                "{:<10} missing ({}); get it with `pip install {}`, or install the CUDA toolkit",
                library.name, library.what_for, library.wheel
            ),
        }
    }
    let folders = libraries::folders();
    if !folders.is_empty() {
        println!("looked in  the system's library path");
        folders.iter().for_each(|folder| println!("           {}", folder.display()));
    }
    match Device::cuda(0) {
        Ok(Device::Cuda(gpu)) => {
            let (major, minor) = gpu.compute_capability();
            let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
            let (free, total) = (gib(gpu.free_bytes()), gib(gpu.total_bytes()));
            println!("GPU        {}", gpu.name());
            println!("driver     CUDA {}", libraries::driver_version().unwrap_or_else(|| "unknown".into()));
            println!("capability {major}.{minor}, kernels for {}", gpu.arch());
            println!("memory     {free:.1} GiB free of {total:.1} GiB");
            println!("ready      train with --device cuda");
        }
        Ok(Device::Cpu) => {}
        Err(error) => println!("GPU        {error}"),
    }
    println!("CPU        {} threads; --device cpu always works", std::thread::available_parallelism()?);
    Ok(())
}
