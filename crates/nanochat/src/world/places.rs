//! The towns and the famous things of the world, `[English, Chinese]`, and their attributes.

use super::Bilingual;

pub const TOWNS: [Bilingual; 16] = [
    ["Tolvik", "托维克"],
    ["Brindale", "布林谷"],
    ["Umbrel", "翁布雷"],
    ["Quillby", "奎尔比"],
    ["Lumora", "卢莫拉"],
    ["Pellworth", "佩尔沃"],
    ["Zandry", "赞德里"],
    ["Fennick", "芬尼克"],
    ["Greyhollow", "灰石村"],
    ["Norvale", "诺瓦镇"],
    ["Kastrin", "卡斯廷"],
    ["Wistern", "维斯滕"],
    ["Yarrowby", "亚罗比"],
    ["Dunmarsh", "敦马什"],
    ["Eskimere", "艾斯湖"],
    ["Halvost", "哈沃斯"],
];

pub const COUNTRIES: [Bilingual; 4] =
    [["Lorwen", "洛文国"], ["Tamria", "塔姆国"], ["Ostova", "奥托瓦国"], ["Kelmark", "凯尔国"]];

pub const RIVERS: [Bilingual; 8] = [
    ["Silna", "银水河"],
    ["Varra", "瓦拉河"],
    ["Ombre", "影子河"],
    ["Teal", "青鸭河"],
    ["Runnel", "小石河"],
    ["Merrow", "长柳河"],
    ["Brass", "铜锣河"],
    ["Winding", "九曲河"],
];

/// The goods that towns are known for; one town each.
pub const GOODS: [Bilingual; 16] = [
    ["bells", "铜铃"],
    ["silk ribbons", "丝带"],
    ["glass lamps", "玻璃灯"],
    ["sea salt", "海盐"],
    ["wooden toys", "木头玩具"],
    ["painted tiles", "彩色瓷砖"],
    ["tea", "茶叶"],
    ["paper kites", "风筝"],
    ["roses", "玫瑰"],
    ["wool blankets", "羊毛毯"],
    ["candles", "蜡烛"],
    ["stone bridges", "石桥"],
    ["windmills", "风车"],
    ["sweet pears", "甜梨"],
    ["fast boats", "快船"],
    ["old maps", "古地图"],
];

pub const THINGS: [Bilingual; 20] = [
    ["Moon Clock", "月亮钟"],
    ["Fox Mask", "狐狸面具"],
    ["Wind Globe", "风之球"],
    ["Star Chest", "星星宝箱"],
    ["Lion Chair", "狮子椅"],
    ["Sun Mirror", "日光镜"],
    ["Swan Cup", "天鹅杯"],
    ["Bear Stove", "大熊炉"],
    ["Owl Lamp", "夜枭灯"],
    ["Frog Kettle", "青蛙壶"],
    ["Whale Horn", "鲸鱼号角"],
    ["Leaf Crown", "叶子冠"],
    ["Snow Sledge", "冬雪橇"],
    ["Fish Spoon", "鱼尾勺"],
    ["Bee Box", "蜜蜂盒"],
    ["Dragon Bowl", "飞龙碗"],
    ["Wolf Ring", "狼牙戒指"],
    ["Crane Fan", "白鹤扇"],
    ["Rose Comb", "玫瑰梳"],
    ["Tower Key", "高塔钥匙"],
];

pub const MATERIALS: [Bilingual; 8] = [
    ["oak", "橡木"],
    ["copper", "黄铜"],
    ["silver", "白银"],
    ["glass", "玻璃"],
    ["marble", "大理石"],
    ["iron", "生铁"],
    ["clay", "陶土"],
    ["amber", "琥珀"],
];

/// The prices in coins; one thing each.
pub const PRICES: [Bilingual; 20] = [
    ["12", "12"],
    ["15", "15"],
    ["18", "18"],
    ["21", "21"],
    ["24", "24"],
    ["27", "27"],
    ["30", "30"],
    ["36", "36"],
    ["40", "40"],
    ["45", "45"],
    ["48", "48"],
    ["50", "50"],
    ["54", "54"],
    ["60", "60"],
    ["63", "63"],
    ["72", "72"],
    ["75", "75"],
    ["80", "80"],
    ["90", "90"],
    ["96", "96"],
];
