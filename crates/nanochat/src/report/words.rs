//! The report's texts in English and Chinese. Names of settings are the same as their flags; text that is not in the
//! table is not translated.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    #[default]
    En,
    Zh,
}

#[rustfmt::skip]
const CHINESE: [(&str, &str); 106] = [
    ("nanochat report", "nanochat 报告"),
    ("nanochat report: {}", "nanochat 报告：{}"),
    ("Environment", "环境"),
    ("Summary", "总结"),
    ("Metric", "指标"),
    ("Setting", "设置"),
    ("Result", "结果"),
    ("Value", "值"),
    ("Took {}.", "用时 {}。"),
    ("Time: {}, that of all stages and evaluations together.", "用时 {}，即各阶段与评测用时之和。"),
    ("Time: {}, that of all stages and evaluations before reinforcement learning together.", "用时 {}，即强化学习之前各阶段与评测用时之和。"),
    ("Cost: ${}, at ${} an hour.", "费用：{} 美元（每小时 {} 美元）。"),
    ("{} s", "{} 秒"),
    ("{} min {} s", "{} 分 {} 秒"),
    ("{} h {} min", "{} 小时 {} 分"),
    ("Tokenizer", "分词器"),
    ("Base training", "预训练"),
    ("Mid-training", "中期训练"),
    ("Chat finetuning", "对话微调"),
    ("Reinforcement learning", "强化学习"),
    ("Few-shot tasks after base", "预训练后的少样本任务"),
    ("CORE after base", "预训练后的 CORE"),
    ("Few-shot tasks after mid", "中期训练后的少样本任务"),
    ("CORE after mid", "中期训练后的 CORE"),
    ("Few-shot tasks after sft", "微调后的少样本任务"),
    ("CORE after sft", "微调后的 CORE"),
    ("Few-shot tasks after rl", "强化学习后的少样本任务"),
    ("CORE after rl", "强化学习后的 CORE"),
    ("mean of 1 task, not CORE", "1 个任务的平均，不是 CORE"),
    ("few-shot items cropped", "因过长而截断的少样本题"),
    ("items of each task", "每个任务的题数"),
    ("questions of each task", "每个任务的题数"),
    ("questions of each exam", "每场考试的题数"),
    ("missing", "缺失"),
    ("Chat evaluation", "对话评测"),
    ("Chat evaluation after base", "预训练后的对话评测"),
    ("Chat evaluation after mid", "中期训练后的对话评测"),
    ("Chat evaluation after sft", "微调后的对话评测"),
    ("Chat evaluation after rl", "强化学习后的对话评测"),
    ("git commit", "git 提交"),
    ("code", "代码"),
    ("compiler", "编译器"),
    ("system", "系统"),
    ("processor", "处理器"),
    ("cores", "核数"),
    ("memory", "内存"),
    ("GPU", "显卡"),
    ("driver", "显卡驱动"),
    ("parameters", "参数量"),
    ("tokens", "token 数"),
    ("steps", "步数"),
    ("epochs", "数据过了几遍"),
    ("conversations", "对话数"),
    ("questions", "题数"),
    ("cut to the model's length", "因过长而截断"),
    ("left out", "未使用"),
    ("val bpb", "验证集每字节比特数"),
    ("chat bpb", "对话每字节比特数"),
    ("val loss", "验证集损失"),
    ("arithmetic", "算术"),
    ("spelling", "拼写"),
    ("counting", "数字母"),
    ("facts", "事实"),
    ("identity", "身份"),
    ("problems", "应用题"),
    ("in its language", "用提问的语言回答"),
    ("whole characters", "字符完整"),
    ("pass@1", "pass@1（一次答对）"),
    ("pass@2", "pass@2（两次内答对）"),
    ("pass@4", "pass@4（四次内答对）"),
    ("pass@8", "pass@8（八次内答对）"),
    ("pass@1 before", "训练前 pass@1"),
    ("pass@2 before", "训练前 pass@2"),
    ("pass@4 before", "训练前 pass@4"),
    ("pass@8 before", "训练前 pass@8"),
    ("ARC-Easy", "ARC-Easy（简单科学题）"),
    ("ARC-Challenge", "ARC-Challenge（较难科学题）"),
    ("MMLU", "MMLU（综合知识）"),
    ("GSM8K", "GSM8K（小学应用题）"),
    ("HumanEval", "HumanEval（编程）"),
    ("SpellingBee", "SpellingBee（数字母）"),
    ("C-Eval", "C-Eval（中文考试）"),
    ("CMMLU", "CMMLU（中文综合知识）"),
    ("AGIEval", "AGIEval（中英文考试）"),
    ("AGIEval-en", "AGIEval（英文考试）"),
    ("AGIEval-zh", "AGIEval（中文考试）"),
    ("C-Eval 5-shot", "C-Eval（五个示例）"),
    ("CMMLU 5-shot", "CMMLU（五个示例）"),
    ("MMLU 5-shot", "MMLU（五个示例）"),
    ("poems", "古诗接句"),
    ("idioms", "成语"),
    ("translation-zh", "英译汉"),
    ("translation-en", "汉译英"),
    ("Exams after base", "预训练后的考试（带示例）"),
    ("Exams after mid", "中期训练后的考试（带示例）"),
    ("Exams after sft", "微调后的考试（带示例）"),
    ("Chinese after base", "预训练后的中文小测"),
    ("Chinese after mid", "中期训练后的中文小测"),
    ("Chinese after sft", "微调后的中文小测"),
    ("solved questions before each", "每题之前的示例数"),
    ("model", "模型"),
    ("vocabulary", "词表大小"),
    ("bytes per token", "每个 token 的字节数"),
    ("train bpb", "训练集每字节比特数"),
    ("zh bpb", "中文每字节比特数"),
    ("en bpb", "英文每字节比特数"),
];

/// The texts with slots for values.
const FORMS: [(&str, &str); 6] = [
    ("mean of {} tasks, not CORE", "{} 个任务的平均，不是 CORE"),
    ("{} of {} items", "{} / {} 题"),
    ("{} of {} ({} to {})", "{} / {}（{} 至 {}）"),
    ("{} ({} to {}), centered {}, {} cropped", "{}（{} 至 {}），扣除瞎猜后 {}，{} 题被截断"),
    ("{} ({} to {}), centered {}", "{}（{} 至 {}），扣除瞎猜后 {}"),
    ("{} and {} more", "{}，另有 {} 项"),
];

/// Returns the values in the slots of a form, if the text matches it.
fn slots(form: &str, text: &str) -> Option<Vec<String>> {
    let mut parts = form.split("{}");
    let mut rest = text.strip_prefix(parts.next()?)?;
    let mut found = Vec::new();
    for part in parts {
        let at = if part.is_empty() { rest.len() } else { rest.find(part)? };
        found.push(rest[..at].to_string());
        rest = &rest[at + part.len()..];
    }
    rest.is_empty().then_some(found)
}

fn in_slots(form: &str, values: &[String]) -> String {
    values.iter().fold(form.to_string(), |text, value| text.replacen("{}", value, 1))
}

impl Lang {
    /// Returns the language code, as in `--lang` and in HTML.
    pub fn code(self) -> &'static str {
        match self {
            Lang::En => "en",
            Lang::Zh => "zh",
        }
    }

    /// Translates a word, `word: more`, or a text of one of the forms.
    pub fn word(self, english: &str) -> String {
        if self == Lang::En {
            return english.to_string();
        }
        let known =
            |word: &str| CHINESE.iter().find(|(known, _)| *known == word).map(|(_, chinese)| *chinese);
        if let Some(chinese) = known(english) {
            return chinese.to_string();
        }
        if let Some((title, more)) = english.split_once(": ")
            && let Some(title) = known(title)
        {
            return format!("{title}：{}", self.word(more));
        }
        let filled = |&(form, chinese): &(&str, &str)| Some(in_slots(chinese, &slots(form, english)?));
        FORMS.iter().find_map(filled).unwrap_or_else(|| english.to_string())
    }

    /// Translates a text and replaces each `{}` by a value.
    pub fn fill(self, english: &str, values: &[String]) -> String {
        in_slots(&self.word(english), values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_one_translation_with_the_same_slots() {
        for (english, chinese) in CHINESE.iter().chain(&FORMS) {
            assert_eq!(english.matches("{}").count(), chinese.matches("{}").count(), "{english}");
        }
        for (i, (english, _)) in CHINESE.iter().enumerate() {
            assert!(CHINESE[..i].iter().all(|(other, _)| other != english), "{english} is there twice");
        }
        for (english, chinese) in [
            ("mean of 21 tasks, not CORE", "21 个任务的平均，不是 CORE"),
            ("3 of 80 items", "3 / 80 题"),
            (
                "0.2780 (0.2405 to 0.3188), centered 0.0373, 2 cropped",
                "0.2780（0.2405 至 0.3188），扣除瞎猜后 0.0373，2 题被截断",
            ),
            ("8 of 660 (0.0062 to 0.0237)", "8 / 660（0.0062 至 0.0237）"),
            ("Chat evaluation after sft: MMLU, GSM8K and 2 more", "微调后的对话评测：MMLU, GSM8K，另有 2 项"),
            ("/data/sft: of 3", "/data/sft: of 3"),
        ] {
            assert_eq!(Lang::Zh.word(english), chinese);
        }
        assert_eq!(
            (Lang::Zh.word("no such word"), Lang::En.word("GPU")),
            ("no such word".into(), "GPU".into())
        );
    }
}
