//! The sizes of work for each kind of device. A new kind gets its own table here.

use nanochat_tensor::Device;

/// Sizes that suit a device. The sizes of training and of the engine are defaults, which flags override.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSizes {
    /// The tokens in a row of pretraining.
    pub row_tokens: usize,
    /// The rows in one forward pass of training.
    pub rows: usize,
    /// The tokens in one optimizer step of pretraining.
    pub step_tokens: usize,
    /// The tokens in a forward pass of an evaluation.
    pub pass_tokens: usize,
    /// The number of logits computed at a time in an evaluation.
    pub logits: usize,
    /// The maximum rows that the engine decodes together.
    pub decode_rows: usize,
    /// The maximum prompt tokens in a step of the engine.
    pub prompt_tokens: usize,
    /// The maximum bytes of the engine's keys and values.
    pub cache_bytes: usize,
    /// The side of a square matrix whose product reaches full speed.
    pub large_product: usize,
    /// The number of values in an array whose copy reaches full speed.
    pub large_array: usize,
}

impl DeviceSizes {
    /// The sizes for two cores of a laptop, where the tokens decoded per second still grow up to 64 rows. The logits
    /// take 16 MiB.
    pub const CPU: DeviceSizes = DeviceSizes {
        row_tokens: 512,
        rows: 8,
        step_tokens: 8_192,
        pass_tokens: 4_096,
        logits: 4 << 20,
        decode_rows: 64,
        prompt_tokens: 256,
        cache_bytes: 1 << 30,
        large_product: 1_024,
        large_array: 1 << 24,
    };
    /// The sizes for a GPU. The batches of pretraining are nanochat's. A GPU is busy only with a few hundred decoded
    /// rows, and processes thousands of prompt tokens in the time of a few hundred. The logits take 1 GiB.
    pub const GPU: DeviceSizes = DeviceSizes {
        row_tokens: 2_048,
        rows: 32,
        step_tokens: 524_288,
        pass_tokens: 16_384,
        logits: 256 << 20,
        decode_rows: 1_024,
        prompt_tokens: 8_192,
        cache_bytes: 32 << 30,
        large_product: 8_192,
        large_array: 1 << 28,
    };

    /// Returns the sizes for this device.
    pub fn of(device: &Device) -> &'static DeviceSizes {
        match device {
            Device::Cpu => &DeviceSizes::CPU,
            Device::Gpu(_) => &DeviceSizes::GPU,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// The maximum lines of code that match on the kind of device, in all crates except nanochat-tensor; each must be
    /// extended for a new kind. Other code asks `Device::properties` or this file's table.
    const MOST: usize = 12;

    /// Whether a line matches on the kind of device. Constructing a device or comparing a `DeviceChoice` is no match.
    fn matches_on_the_kind(line: &str) -> bool {
        let before_arrow = line.split_once("=>").map(|(pattern, _)| pattern);
        let in_macro = line.split_once("matches!(").map(|(_, arguments)| arguments);
        let after_let = line.split("let ").skip(1).filter_map(|rest| Some(rest.split_once(" = ")?.0));
        let kinds = ["Device::Cpu", "Device::Gpu"];
        after_let.chain(before_arrow).chain(in_macro).any(|pattern| {
            let mut places = kinds.iter().flat_map(|kind| pattern.match_indices(kind));
            places.any(|(at, _)| !pattern[..at].ends_with(char::is_alphanumeric))
        })
    }

    /// Adds the matches below `folder` to `found`, with their files and line numbers.
    fn search(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                search(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let lines = text.lines().enumerate().filter(|(_, line)| matches_on_the_kind(line));
                found.extend(lines.map(|(i, line)| format!("{}:{}: {}", path.display(), i + 1, line.trim())));
            }
        }
    }

    #[test]
    fn few_places_above_the_tensor_crate_know_the_kinds_of_device() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir(crates).unwrap() {
            let entry = entry.unwrap();
            let sources = entry.path().join("src");
            if entry.file_name() != "nanochat-tensor" && sources.is_dir() {
                search(&sources, &mut found);
            }
        }
        assert!(!found.is_empty(), "the sources were not found: `of` above is one such match");
        assert!(found.len() <= MOST, "{} matches, at most {MOST}:\n{}", found.len(), found.join("\n"));
    }

    #[test]
    fn a_match_is_told_from_a_device_that_is_made() {
        let [cpu, gpu] = ["Cpu", "Gpu(gpu)"].map(|kind| format!("Device::{kind}"));
        for line in [
            format!("{cpu} => 1,"),
            format!("Ok({gpu}) => f(gpu),"),
            format!("let {gpu} = device else {{ return }};"),
            format!("let side = if let {cpu} = device {{ 1 }} else {{ 2 }};"),
            format!("if !matches!(device, {cpu}) {{"),
        ] {
            assert!(matches_on_the_kind(&line), "{line}");
        }
        for line in [
            format!("let device = {cpu};"),
            format!("DeviceChoice::Cpu => Ok({cpu}),"),
            format!("tensor.to_device(&{cpu})"),
        ] {
            assert!(!matches_on_the_kind(&line), "{line}");
        }
    }
}
