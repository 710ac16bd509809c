//! Curves of a run as SVG: training loss, and validation bits per byte by language.

use std::io;
use std::path::Path;

use plotters::prelude::*;

use crate::files::atomic_file;
use crate::report::metrics::Metrics;
use crate::report::{Chart, file_name};

/// One line of a chart, drawn in the order given.
#[derive(Clone)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Raw values behind a smoothed curve.
    pub faint: bool,
}

const SIZE: (u32, u32) = (800, 400);
/// Points of a line that are marked: a single one would not be seen otherwise.
const FEW: usize = 40;
const FAINT: RGBColor = RGBColor(165, 188, 216);
const COLORS: [RGBColor; 5] = [
    RGBColor(31, 87, 153),
    RGBColor(200, 80, 30),
    RGBColor(40, 130, 70),
    RGBColor(130, 70, 150),
    RGBColor(110, 110, 110),
];

/// Draws the finite points of all series over the step.
pub fn loss_svg(title: &str, series: &[Series], path: &Path) -> io::Result<()> {
    let mut svg = String::new();
    draw(title, series, &mut svg).map_err(|error| io::Error::other(error.to_string()))?;
    atomic_file::write(path, svg.as_bytes())
}

fn draw(title: &str, series: &[Series], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let points = || series.iter().flat_map(|series| finite(&series.points));
    let last = points().map(|(x, _)| x).fold(1.0, f64::max);
    let low = points().map(|(_, y)| y).fold(f64::INFINITY, f64::min);
    let high = points().map(|(_, y)| y).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = 0.05 * (high - low).max(0.01);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(14)
        .margin_right(28) // half of the last step's label
        .x_label_area_size(38)
        .y_label_area_size(54)
        .build_cartesian_2d(0.0..last, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .label_style(("sans-serif", 13))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(228, 228, 228))
        .axis_style(RGBColor(120, 120, 120))
        .x_label_formatter(&|step| format!("{step:.0}"))
        .draw()?;
    let mut colors = COLORS.iter().copied().cycle();
    for series in series {
        let color = if series.faint { FAINT } else { colors.next().unwrap_or(BLACK) };
        let style = color.stroke_width(if series.faint { 1 } else { 2 });
        chart
            .draw_series(LineSeries::new(finite(&series.points), style))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        if finite(&series.points).count() <= FEW {
            let dot = |point| Circle::new(point, 3, color.filled());
            chart.draw_series(finite(&series.points).map(dot))?;
        }
    }
    let middle = (low + high) / 2.0;
    let crowd = |right: bool, upper: bool| {
        points().filter(|(x, y)| (*x > 0.6 * last) == right && (*y > middle) == upper).count()
    };
    let corners = [
        (SeriesLabelPosition::UpperRight, crowd(true, true)),
        (SeriesLabelPosition::LowerRight, crowd(true, false)),
        (SeriesLabelPosition::UpperLeft, crowd(false, true)),
    ];
    let (emptiest, _) = corners.into_iter().min_by_key(|(_, crowd)| *crowd).expect("three corners");
    chart
        .configure_series_labels()
        .position(emptiest)
        .label_font(("sans-serif", 13))
        .background_style(WHITE)
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    area.present()?;
    Ok(())
}

fn finite(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> + '_ {
    points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite())
}

/// Each value averaged with its neighbours, a twentieth of all and at most 200 together, fewer towards both ends.
pub fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> = finite(points).collect();
    let most = (points.len() / 40).min(100);
    (0..points.len())
        .map(|i| {
            let reach = most.min(i).min(points.len() - 1 - i);
            let window = &points[i - reach..=i + reach];
            (points[i].0, window.iter().map(|(_, y)| y).sum::<f64>() / window.len() as f64)
        })
        .collect()
}

/// At most about 2,000 points, more than the chart has pixels: a long run's SVG stays small.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let stride = points.len().div_ceil(2_000).max(1);
    points.into_iter().step_by(stride).collect()
}

/// Draws a stage's charts into `folder`: `loss` with `val_loss`, every metric whose name ends with `_bpb`,
/// such as `val_bpb` and `zh_bpb`, CORE, tasks measured while training, and of reinforcement learning `reward` with
/// every `pass@k`. Charts without points are left out.
pub fn stage_charts(stage: &str, metrics: &[Metrics], folder: &Path) -> io::Result<Vec<Chart>> {
    let (stem, mut charts) = (file_name(stage), Vec::new());
    let mut add = |what: &str, file: String, series: Vec<Series>| {
        if series.iter().any(|series| finite(&series.points).next().is_some()) {
            let title = format!("{stage}: {what}");
            loss_svg(&title, &series, &folder.join(&file))?;
            charts.push(Chart { title, file });
        }
        io::Result::Ok(())
    };
    let line = |name: &str, points| Series { name: name.to_string(), points, faint: false };
    let with_smooth = |name: &str| {
        let raw = points(metrics, name);
        let smooth = line("training, smoothed", thinned(smoothed(&raw)));
        vec![Series { faint: true, ..line("training, each step", thinned(raw)) }, smooth]
    };
    let named = |wanted: &dyn Fn(&str) -> bool| {
        let mut names: Vec<&String> = metrics.iter().flat_map(|line| line.values.keys()).collect();
        names.retain(|name| wanted(name));
        names.sort();
        names.dedup();
        names.into_iter().map(|name| line(name, points(metrics, name))).collect::<Vec<_>>()
    };
    let mut losses = with_smooth("loss");
    let validation = points(metrics, "val_loss");
    if !validation.is_empty() {
        losses.push(line("validation", validation));
    }
    add("loss", format!("{stem}-loss.svg"), losses)?;
    add("validation bits per byte", format!("{stem}-val-bpb.svg"), named(&|name| name.ends_with("_bpb")))?;
    add("CORE", format!("{stem}-core.svg"), named(&|name| name == "CORE"))?;
    // Earlier versions called the mean of some tasks "CORE (partial: …)".
    let some_tasks = named(&|name| name == "core_mean" || name.starts_with("CORE (partial"));
    add("mean of some tasks, not CORE", format!("{stem}-core-mean.svg"), some_tasks)?;
    let accuracies = named(&|name| name.starts_with("accuracy "));
    add("accuracy", format!("{stem}-accuracy.svg"), accuracies)?;
    let rewards = [with_smooth("reward"), named(&|name| name.starts_with("pass@"))].concat();
    add("reward", format!("{stem}-reward.svg"), rewards)?;
    Ok(charts)
}

fn points(metrics: &[Metrics], name: &str) -> Vec<(f64, f64)> {
    metrics.iter().filter_map(|line| Some((line.step as f64, line.get(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value};

    fn line(step: u64, values: &[(&str, f64)]) -> Metrics {
        let values: Map<_, _> =
            values.iter().map(|(name, value)| (name.to_string(), Value::from(*value))).collect();
        Metrics { step, time: 0.0, values }
    }

    #[test]
    fn each_chart_has_its_series() {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics: Vec<Metrics> = (0..=1000)
            .map(|step| {
                let noise = (step as f64 * 12.9898).sin() * 0.2;
                line(step, &[("loss", 2.0 + 8.0 / (1.0 + step as f64 / 40.0) + noise)])
            })
            .collect();
        for step in (0..=1000).step_by(250) {
            let bpb = 1.0 + 2.0 / (1.0 + step as f64 / 200.0);
            metrics.push(line(step, &[("val_bpb", bpb), ("zh_bpb", bpb * 1.2)]));
            metrics.push(line(step, &[("reward", 0.5), ("pass@4", 0.7)]));
        }
        metrics.push(line(1001, &[("loss", f64::NAN)]));
        let charts = stage_charts("Base training", &metrics, dir.path()).unwrap();
        let files: Vec<&str> = charts.iter().map(|chart| chart.file.as_str()).collect();
        assert_eq!(
            files,
            ["base-training-loss.svg", "base-training-val-bpb.svg", "base-training-reward.svg"]
        );
        let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
        let (loss, bpb) = (read(files[0]), read(files[1]));
        assert!(loss.starts_with("<svg") && loss.trim_end().ends_with("</svg>"));
        assert!(loss.contains("smoothed") && loss.contains("Base training: loss"));
        assert!(bpb.contains("val_bpb") && bpb.contains("zh_bpb"));
        assert!(read(files[2]).contains("pass@4"));
        assert!(!loss.contains("NaN") && !loss.contains("inf"));
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let dir = tempfile::tempdir().unwrap();
        assert!(stage_charts("sft", &[line(1, &[("lr", 0.1)])], dir.path()).unwrap().is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let one = [Series { name: "one".to_string(), points: vec![(0.0, 3.0)], faint: false }];
        loss_svg("one point", &one, &dir.path().join("one.svg")).unwrap();
        let drawn = std::fs::read_to_string(dir.path().join("one.svg")).unwrap();
        assert_eq!(drawn.matches("<circle").count(), 1, "a single point is seen");
        loss_svg("no point", &[], &dir.path().join("none.svg")).unwrap();
    }

    #[test]
    fn long_runs_make_small_files() {
        let dir = tempfile::tempdir().unwrap();
        let metrics: Vec<Metrics> = (0..20_000).map(|step| line(step, &[("loss", 3.0)])).collect();
        stage_charts("Base training", &metrics, dir.path()).unwrap();
        assert!(std::fs::metadata(dir.path().join("base-training-loss.svg")).unwrap().len() < 100_000);
    }

    #[test]
    fn smoothing_keeps_level_and_length() {
        let flat: Vec<(f64, f64)> = (0..200).map(|x| (x as f64, 3.0)).collect();
        assert_eq!(smoothed(&flat), flat);
        assert!(smoothed(&[]).is_empty() && smoothed(&[(1.0, f64::NAN)]).is_empty());
        let spike: Vec<(f64, f64)> = (0..500).map(|x| (x as f64, f64::from(x == 100))).collect();
        let highest = smoothed(&spike).iter().map(|(_, y)| *y).fold(0.0, f64::max);
        assert!((0.03..0.05).contains(&highest), "{highest}");
    }
}
