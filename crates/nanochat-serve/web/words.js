// The page's texts, in English and Chinese.

const WORDS = {
  en: {
    newChat: "+ New conversation", settings: "Settings", conversations: "Conversations", menu: "Conversations",
    messages: "Messages", placeholder: "Say something…", send: "Send", stop: "Stop", skip: "To the message field",
    hint: "Enter sends, Shift+Enter makes a new line, Esc stops. A small model is often wrong.",
    welcome: "What shall we talk about?", welcomeText: "This model runs on your own machine.",
    ideas: ["Who are you?", "What is 125 + 378?", "How many r are in strawberry?", "Tell me a story."],
    temperature: "Temperature", topK: "Top-k (0: off)", maxTokens: "Longest answer, in tokens",
    system: "System prompt", systemHint: "How the model should behave", theme: "Appearance", themeAuto: "As the system",
    themeLight: "Light", themeDark: "Dark", apiKey: "Key", apiKeyHint: "Only if the server asks for one",
    deleteAll: "Delete all conversations", sureAll: "Really delete them all?", done: "Done", edit: "Edit", copy: "Copy",
    copied: "Copied", regenerate: "Regenerate", cancel: "Cancel", resend: "Send", remove: "Delete",
    previous: "Previous version", next: "Next version", you: "You said", model: "The model said",
    calculator: "calculator", answering: "The model is answering", answered: "The answer is there",
    speed: (tokens, rate) => `${tokens} tokens · ${rate} tok/s`, cut: "Cut at the longest length.",
    stopped: "Stopped.", dropped: "The beginning no longer fits into what the model sees.",
    unreachable: "The server cannot be reached.", wantsKey: "The server wants a key: enter it in the settings.",
    broken: "The answer broke off.", unfinished: "This answer is not finished.",
    full: "The browser's storage is full: what is said now is not kept. Delete conversations, then erase the deleted ones.",
    deleted: "Deleted", deletedOne: "The conversation was deleted.", restore: "Have it back", erase: "Erase them for good",
    sureErase: "Really erase them?", notCopied: "Could not be copied: select the text instead",
  },
  zh: {
    newChat: "+ 新对话", settings: "设置", conversations: "对话列表", menu: "对话列表", messages: "消息",
    placeholder: "说点什么……", send: "发送", stop: "停止", skip: "跳到输入框",
    hint: "回车发送，Shift+回车换行，Esc 停止。小模型经常出错，请自行核对。",
    welcome: "想聊点什么？", welcomeText: "这个模型就运行在你自己的机器上。",
    ideas: ["你是谁？", "125+378等于多少？", "strawberry 里有几个 r？", "讲个故事吧。"],
    temperature: "温度", topK: "Top-k（0 为不限）", maxTokens: "回答最长 token 数",
    system: "系统提示词", systemHint: "希望模型怎样回答", theme: "外观", themeAuto: "跟随系统",
    themeLight: "浅色", themeDark: "深色", apiKey: "密钥", apiKeyHint: "服务器要求时才需要填",
    deleteAll: "删除全部对话", sureAll: "确定全部删除？", done: "完成", edit: "编辑", copy: "复制", copied: "已复制",
    regenerate: "重新生成", cancel: "取消", resend: "发送", remove: "删除", previous: "上一个版本", next: "下一个版本",
    you: "你说", model: "模型说", calculator: "计算器", answering: "模型正在回答", answered: "回答完毕",
    speed: (tokens, rate) => `${tokens} 个 token · 每秒 ${rate} 个`, cut: "已达到最长长度，回答被截断。", stopped: "已停止。",
    dropped: "对话太长，开头部分模型已经看不到了。", unreachable: "连不上服务器。",
    wantsKey: "服务器需要密钥，请在设置里填写。", broken: "回答中断了。", unfinished: "这条回答还没有写完。",
    full: "浏览器存储已满，新内容没有保存。请删除一些对话，再彻底清除已删除的对话。",
    deleted: "已删除", deletedOne: "对话已删除。", restore: "恢复", erase: "彻底清除", sureErase: "确定彻底清除？",
    notCopied: "复制失败，请手动选中文字复制",
  },
};

export const language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
export const words = WORDS[language];

/** Fills in the texts that the markup refers to: data-text, data-label, data-placeholder. */
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = words[node.dataset.text];
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", words[node.dataset.label]);
    if (node.tagName === "BUTTON") node.title = words[node.dataset.label];
  }
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = words[node.dataset.placeholder];
}
