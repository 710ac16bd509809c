use super::*;
use crate::model::config::Recompute;

fn options() -> PlanOptions {
    PlanOptions { gpus: 8, ..PlanOptions::new(TextLanguage::En, GpuModel::H100) }
}

#[test]
fn d20_is_the_published_speedrun() {
    let d20 = plan(20, &options()).unwrap();
    assert_eq!(d20.params, 560_988_160);
    assert_eq!((d20.steps, d20.tokens, d20.shards), (21_400, 11_219_763_200, 240));
    assert_eq!((d20.device_batch_size, d20.grad_accum_steps), (32, 1));
    assert!((d20.whole_run.hours - 4.0).abs() < 0.1, "{:?}", d20.whole_run);
    assert!((d20.whole_run.dollars - 96.0).abs() < 2.0, "{:?}", d20.whole_run);
    assert!(d20.pretraining.hours < 2.8 && d20.suggestions.is_empty(), "{d20:?}");
    let flags = "--depth 20 --max-seq-len 2048 --device-batch-size 32 --total-batch-size 524288 --target-param-data-ratio 20";
    assert_eq!(d20.train_flags(), flags);
    assert_eq!((d20.shards_of(TextLanguage::En, 1.0), d20.shards_of(TextLanguage::En, 0.5)), (240, 120));
}

#[test]
fn whole_runs_are_near_the_published_hours() {
    let published = [0.25, 25.0 / 60.0, 35.0 / 60.0, 50.0 / 60.0, 1.2, 2.0, 4.0, 12.0, 33.0];
    let plans = all_depths(&options()).unwrap();
    for (plan, hours) in plans.iter().zip(published) {
        let ratio = plan.whole_run.hours / hours;
        assert!(
            (0.8..1.2).contains(&ratio),
            "d{}: {} h, published {hours}",
            plan.depth,
            plan.whole_run.hours
        );
    }
    let steps: Vec<usize> = plans.iter().map(|plan| plan.steps).collect();
    assert_eq!(steps, [1_400, 2_325, 3_520, 5_075, 7_080, 12_800, 21_400, 41_275, 71_680]);
    assert_eq!(plans[8].shards, 800);
}

#[test]
fn languages_differ_in_ratio_vocabulary_and_text() {
    let zh = plan(20, &PlanOptions { language: TextLanguage::Zh, ..options() }).unwrap();
    assert_eq!((zh.model.vocab_size, zh.model.sequence_len, zh.tokens_per_param), (40_000, 3_072, 25));
    assert_eq!((zh.total_batch_size, zh.tokens), (786_432, zh.steps * 786_432));
    assert!((zh.characters / zh.tokens as f64 - 2.75).abs() < 1e-9);
    assert!((zh.learning_rates.matrix_lr - 0.022 * 1.5f64.sqrt()).abs() < 1e-9);
    assert!(zh.suggestions[0].contains("√1.5"), "{:?}", zh.suggestions);
    assert!(zh.train_flags().ends_with(
        "--target-param-data-ratio 25 --matrix-lr 0.0269 --embedding-lr 0.2449 --unembedding-lr 0.00490"
    ));
    let short = PlanOptions { language: TextLanguage::Zh, max_seq_len: Some(2_048), ..options() };
    let short = plan(20, &short).unwrap();
    assert_eq!((short.total_batch_size, short.learning_rates.matrix_lr), (524_288, 0.022));
    assert!(short.suggestions.iter().any(|line| line.contains("--max-seq-len 3072")), "{short:?}");
    let english = PlanOptions { language: TextLanguage::Zh, english_tokenizer: true, ..options() };
    assert_eq!(plan(20, &english).unwrap().tokens_per_param, 30);
    let mixed = plan(20, &PlanOptions { language: TextLanguage::Mix, ..options() }).unwrap();
    assert_eq!((mixed.model.vocab_size, mixed.tokens_per_param), (50_000, 22));
}

#[test]
fn memory_is_the_sum_of_what_is_stored() {
    let d20 = plan(20, &PlanOptions { gpus: 1, ..options() }).unwrap();
    assert_eq!(d20.grad_accum_steps, 8);
    let memory = d20.memory;
    assert_eq!(memory.activations, (10.0 * 20.0 + 2.0) * 32.0 * 2048.0 * 1280.0 * 2.0);
    let (matrices, embedding) = (393_216_000.0, 83_886_080.0);
    assert_eq!(memory.weights, 6.0 * (matrices + embedding) + 4.0 * embedding);
    assert_eq!(memory.optimizer, 4.0 * matrices + 16.0 * embedding);
    let eight = plan(20, &options()).unwrap().memory;
    assert_eq!(eight.optimizer, memory.optimizer / 8.0);
    // The memory goal on a CPU: d4, T 1,024, B 1, vocabulary 65,536 in at most 1.2 GiB.
    let cpu = PlanOptions {
        gpu: GpuModel::Cpu,
        gpus: 1,
        max_seq_len: Some(1024),
        device_batch_size: Some(1),
        total_batch_size: Some(1024),
        ..options()
    };
    let total = plan(4, &cpu).unwrap().memory.total();
    assert!((0.5..1.2).contains(&(total / (1u64 << 30) as f64)), "{total}");
}

#[test]
fn recomputing_trades_memory_for_time() {
    let with = |recompute| plan(20, &PlanOptions { recompute, ..options() }).unwrap();
    let [none, mlp, block] = [Recompute::None, Recompute::Mlp, Recompute::Block].map(with);
    let unit = 32.0 * 2048.0 * 1280.0 * 2.0;
    assert_eq!(mlp.memory.activations, (6.0 * 20.0 + 5.0 + 2.0) * unit);
    assert_eq!(block.memory.activations, (20.0 + 10.0 + 2.0) * unit);
    assert_eq!(none.flops, block.flops);
    let share = |plan: &Plan| plan.pretraining.hours / none.pretraining.hours;
    assert!((1.1..1.25).contains(&share(&mlp)) && (1.25..1.34).contains(&share(&block)));
}

#[test]
fn what_fits_is_named_with_its_flags() {
    let d20 = plan(20, &options()).unwrap().model;
    let gib = |n: f64| n * f64::from(1 << 30);
    assert_eq!(what_fits(&d20, 32, gib(80.0)), "--device-batch-size 32 fits");
    let some = what_fits(&d20, 32, gib(24.0));
    let most = "--device-batch-size 8, --device-batch-size 16 --recompute mlp";
    assert_eq!(some, format!("{most} or --device-batch-size 32 --recompute block fits"));
    assert!(what_fits(&d20, 32, gib(4.0)).starts_with("no batch fits"));
    // Each of the suggested settings fits.
    let fits = |batch, recompute| Memory::gpu(&d20, batch, 1, recompute).total() < gib(24.0);
    assert!(fits(8, Recompute::None) && fits(16, Recompute::Mlp) && fits(32, Recompute::Block));
    assert!(!fits(16, Recompute::None) && !fits(32, Recompute::Mlp));
}

#[test]
fn a_total_batch_that_does_not_divide_names_its_neighbours() {
    let odd = PlanOptions {
        device_batch_size: Some(32),
        max_seq_len: Some(3072),
        total_batch_size: Some(524_288),
        ..options()
    };
    let error = plan(20, &odd).unwrap_err();
    let PlanError::TotalBatch { nearest, .. } = &error else { panic!("{error}") };
    assert_eq!(nearest, &[786_432], "{error}");
    for total_batch_size in nearest.clone() {
        plan(20, &PlanOptions { total_batch_size: Some(total_batch_size), ..odd.clone() }).unwrap();
    }
    let error = plan(4, &PlanOptions { total_batch_size: Some(600_000), ..options() }).unwrap_err();
    assert!(error.to_string().contains("[524288, 1048576]"), "{error}");
}

#[test]
fn what_does_not_fit_names_what_does() {
    let v100 = PlanOptions { gpu: GpuModel::V100, device_batch_size: Some(32), ..options() };
    let error = plan(20, &v100).unwrap_err();
    let PlanError::DeviceBatch { largest, .. } = error else { panic!("{error}") };
    assert_eq!(largest, 16); // 20 fit, but only powers of two divide the total batch
    plan(20, &PlanOptions { device_batch_size: Some(largest), ..v100.clone() }).unwrap();
    let total_batch_size = Some(2048 * 8 * 20);
    let twenty = PlanOptions { total_batch_size, ..v100.clone() };
    assert!(plan(20, &twenty).unwrap_err().to_string().ends_with("works is 20"));
    plan(20, &PlanOptions { device_batch_size: Some(20), ..twenty }).unwrap();

    let small = PlanOptions { memory_gb: Some(8.0), ..options() };
    let error = plan(32, &small).unwrap_err().to_string();
    let deepest: usize = error.rsplit_once('d').unwrap().1.parse().unwrap();
    plan(deepest, &small).unwrap();
    assert!(plan(deepest + 2, &small).is_err(), "{error}");
    assert!(matches!(plan(11, &options()), Err(PlanError::Model(_))));
}

#[test]
fn another_batch_follows_the_square_root_rule() {
    let quarter = plan(12, &PlanOptions { total_batch_size: Some(131_072), ..options() }).unwrap();
    let rates = LearningRates { matrix_lr: 0.01, embedding_lr: 0.1, unembedding_lr: 0.002 };
    assert_eq!(quarter.learning_rates, rates);
    assert!(quarter.suggestions[0].contains("√0.25"), "{:?}", quarter.suggestions);
    assert!(
        quarter.train_flags().ends_with("--matrix-lr 0.0100 --embedding-lr 0.1000 --unembedding-lr 0.00200")
    );
    assert_eq!((quarter.device_batch_size, quarter.grad_accum_steps), (8, 1));
}

/// The effect of scaled rates on it is measured at the top of `rates.rs`.
#[test]
fn a_small_batch_keeps_the_usual_rates() {
    for (total, follows) in
        [(65_536, true), (32_768, false), (1_024, false), (1 << 22, true), (1 << 23, false)]
    {
        let small = PlanOptions { vocab_size: Some(1_024), max_seq_len: Some(128), gpus: 1, ..options() };
        let plan = plan(8, &PlanOptions { total_batch_size: Some(total), ..small }).unwrap();
        assert_eq!(plan.learning_rates.matrix_lr != 0.02, follows, "{total}");
        assert_eq!(plan.train_flags().contains("-lr"), follows, "{}", plan.train_flags());
    }
}

#[test]
fn shards_and_money_lead_back_to_runs() {
    let plan_of_100 = plan(20, &PlanOptions { shards: Some(100), ..options() }).unwrap();
    assert!((plan_of_100.epochs.unwrap() - 2.176).abs() < 1e-3, "{:?}", plan_of_100.epochs);
    assert_eq!(largest_within(100.0, &options()).unwrap().depth, 20);
    let error = largest_within(1.0, &options()).unwrap_err();
    assert!(matches!(error, PlanError::Budget { depth: 2, .. }), "{error}");
    let free = PlanOptions { price: Some(0.0), ..options() };
    assert_eq!(largest_within(0.0, &free).unwrap().depth, 48); // the deepest that fits 80 GB
}

#[test]
fn values_without_meaning_are_refused() {
    for options in [
        PlanOptions { gpus: 0, ..options() },
        PlanOptions { mfu: 0.0, ..options() },
        PlanOptions { mfu: f64::NAN, ..options() },
        PlanOptions { mfu: 1e-300, ..options() },
        PlanOptions { price: Some(f64::INFINITY), ..options() },
        PlanOptions { price: Some(-1.0), ..options() },
        PlanOptions { link_bandwidth: 1e-300, ..options() },
        PlanOptions { chars_per_token: Some(f64::INFINITY), ..options() },
        PlanOptions { memory_gb: Some(-1.0), ..options() },
        PlanOptions { shards: Some(1), ..options() },
        PlanOptions { device_batch_size: Some(0), ..options() },
        PlanOptions { total_batch_size: Some(0), ..options() },
        PlanOptions { vocab_size: Some(0), ..options() },
    ] {
        plan(4, &options).unwrap_err();
    }
    for budget in [f64::NAN, f64::INFINITY, -1.0] {
        let error = largest_within(budget, &options()).unwrap_err();
        assert!(error.to_string().contains("--budget must be from 0"), "{error}");
    }
    let error = plan(20, &PlanOptions { gpus: 100_000, ..options() }).unwrap_err();
    assert!(error.to_string().contains("at most 256 can share it"), "{error}");
    plan(20, &PlanOptions { gpus: 256, ..options() }).unwrap();
    let huge = PlanOptions { vocab_size: Some(300), total_batch_size: Some(1 << 26), ..options() };
    let error = plan(2, &huge).unwrap_err();
    let PlanError::TooFewTokens { nearest, .. } = error else { panic!("{error}") };
    plan(2, &PlanOptions { total_batch_size: Some(nearest), ..huge }).unwrap();
}

#[test]
fn slow_links_cost_what_they_take_beyond_the_backward_pass() {
    let scaling =
        |gpus, link_bandwidth| plan(20, &PlanOptions { gpus, link_bandwidth, ..options() }).unwrap().scaling;
    assert_eq!(scaling(1, 330.0), None);
    let nvlink = scaling(8, 330.0).unwrap();
    // 561M gradients of 4 bytes, seven eighths of them, at 330 GB/s; 3.49 GFLOP for each of 65,536 tokens at half of 989 TFLOP/s.
    assert!((nvlink.communication_ms - 2.0 * 5.95).abs() < 0.01, "{nvlink:?}");
    assert!((nvlink.compute_ms - 462.8).abs() < 0.5, "{nvlink:?}");
    assert!((0.985..0.99).contains(&nvlink.efficiency), "{nvlink:?}");
    // 10 Gbit/s: 1.6 s each way, of which the backward pass hides 0.31.
    let ethernet = scaling(8, 1.25).unwrap();
    assert!(
        (ethernet.exposed_ms - (2.0 * 1_571.0 - 0.667 * ethernet.compute_ms)).abs() < 5.0,
        "{ethernet:?}"
    );
    assert!(ethernet.efficiency < 0.2, "{ethernet:?}");
    assert!(scaling(2, 330.0).unwrap().efficiency > 0.99);
    let cpu = PlanOptions { gpu: GpuModel::Cpu, gpus: 2, device_batch_size: Some(1), ..options() };
    assert_eq!(plan(4, &cpu).unwrap().scaling, None);
}

#[test]
fn waiting_for_each_other_costs_time_and_money() {
    let with = |gpus, link_bandwidth| plan(20, &PlanOptions { gpus, link_bandwidth, ..options() }).unwrap();
    let (alone, nvlink, ethernet) = (with(1, 330.0), with(8, 330.0), with(8, 1.25));
    for several in [&nvlink, &ethernet] {
        let efficiency = several.scaling.unwrap().efficiency;
        let hours = alone.pretraining.hours / 8.0 / efficiency;
        assert!((several.pretraining.hours / hours - 1.0).abs() < 1e-9, "{several:?}");
        assert!((several.pretraining.dollars - 24.0 * hours).abs() < 1e-6, "{several:?}");
        assert!(several.whole_run.hours > alone.whole_run.hours / 8.0 / efficiency - 1e-9, "{several:?}");
    }
    assert!(ethernet.whole_run.dollars > 5.0 * nvlink.whole_run.dollars);
}

#[test]
fn what_is_recomputed_is_a_flag_of_the_run() {
    let plan = plan(20, &PlanOptions { recompute: Recompute::Mlp, ..options() }).unwrap();
    assert!(plan.train_flags().ends_with(" --recompute mlp"), "{}", plan.train_flags());
}

#[test]
fn options_of_the_model_are_planned_and_are_flags_of_the_run() {
    let with = |n_kv_head| {
        let mut options = options();
        options.model.n_kv_head = n_kv_head;
        plan(20, &options)
    };
    let (usual, grouped) = (with(None).unwrap(), with(Some(2)).unwrap());
    assert_eq!(usual.params - grouped.params, 20 * 2 * 1_280 * (1_280 - 256));
    assert!(grouped.memory.activations < usual.memory.activations);
    assert!(grouped.train_flags().contains(" --n-kv-head 2"), "{}", grouped.train_flags());
    assert!(with(Some(3)).unwrap_err().to_string().contains("3 key-value heads do not divide 10"));
}
