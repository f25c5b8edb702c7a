"""The made-up world of the miniature: who and what there is, how stories are told, what functions do, and some Chinese.

All of it was written for this project. Countries, animals and people are invented by a seeded generator, so no LLM outside
knows them. `utils/miniature/texts.py` turns it into questions and training texts.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

PEOPLE = "Ada Ben Cleo Dan Eva Finn Gina Hugo Ida Jon Kim Leo Mia Nils Olga Paul Rosa Sam Tess Vera Will Yara Zoe Omar".split()
THINGS = "apples shells coins cards stamps pens nuts stones books cups seeds plums cakes ropes bells kites beads masks".split()
WARES = "pen cup hat bag lamp book ball rope cake bell kite mask drum belt bowl comb".split()
WORDS = "river Stone apple WINTER garden Moon yellow Cat banana Letter SUMMER tree Window dog Paper".split()


@dataclass(frozen=True)
class Story:
    """An arithmetic word problem: `question` has {name}, {thing}, {a}, {b}, {c}; `signs` says how a, b (and c) are joined."""

    question: str
    signs: str


ARITHMETIC = (
    Story("{name} has {a} {thing} and finds {b} more. How many now?", "+"),
    Story("{name} picks {a} {thing} today and {b} {thing} tomorrow. How many in all?", "+"),
    Story("{name} had {a} {thing} and gave away {b}. How many are left?", "-"),
    Story("Of {a} {thing} in a box {name} takes {b}. How many stay?", "-"),
    Story("{name} fills {b} bags with {a} {thing} each. How many is that?", "*"),
    Story("{b} rows of {a} {thing} lie on a table. How many does {name} count?", "*"),
    Story("{name} has {a} {thing}, gets {b} more and loses {c}. How many in the end?", "+-"),
    Story("{name} owns {b} bags of {a} {thing} and {c} loose ones. How many together?", "*+"),
)
PRICES = (  # the same skills in other words: what a router has not seen
    Story("Price list: one {thing} {a} coins, one {ware} {b} coins. What is the bill for both?", "+"),
    Story("The {thing} was {a} coins and the tip {b} coins. What was paid?", "+"),
    Story("A customer pays {a} coins for a {thing} that costs {b}. What is the change?", "-"),
    Story("The {thing} cost {a} coins and is {b} coins cheaper now. What is the price?", "-"),
    Story("One {thing} costs {a} coins. What is the price of {b}?", "*"),
    Story("A {thing} costs {a} coins, delivery {b} more, a voucher takes off {c}. What is the price?", "+-"),
)


@dataclass(frozen=True)
class Relation:
    """Facts of one kind. `questions` have {k}, `statements` have {k} and {v}; `values` maps each k to its v."""

    questions: tuple[str, ...]
    statements: tuple[str, ...]
    values: dict[str, str]


def invented(rng: random.Random, count: int, ends: Sequence[str]) -> list[str]:
    """`count` different names of two or three syllables."""
    starts, middles = (
        "Bal Dor Fen Gar Hol Jar Kel Lum Mor Nar Pel Quin Ros Sel Tar Ulm Ves Wen Yor Zan".split(),
        ["a", "e", "i", "o", "u", ""],
    )
    names = [start + middle + end for start in starts for middle in middles for end in ends]
    return rng.sample(names, count)


def drawn(rng: random.Random, keys: Sequence[str], values: str) -> dict[str, str]:
    """A value for each key, all values about equally often."""
    pool = values.split()
    return dict(zip(keys, rng.sample(pool * (len(keys) // len(pool) + 1), len(keys))))


def facts(seed: int, size: int) -> dict[str, tuple[Relation, ...]]:
    """The English multiple-choice subjects: three about an invented world with `size` entries each, one about numbers."""
    rng = random.Random(seed)
    lands, animals = (
        invented(rng, size, ("land", "mark", "stan")),
        [name.lower() for name in invented(rng, size, ("bu", "fin", "pok"))],
    )
    people = [f"{name} {end}" for name, end in zip(invented(rng, size, ("dric", "wina")), rng.choices(PEOPLE, k=size))]
    cities = invented(rng, size, ("by", "ford", "dam"))
    numbers = [str(n) for n in range(3, 60)]
    return {
        "geography": (
            Relation(
                (
                    "What is the capital of {k}?",
                    "Which city is the capital of {k}?",
                    "{k} is governed from which city?",
                    "What is the capital of {k} called?",
                ),
                ("The capital of {k} is {v}.", "{v} is the capital of {k}."),
                dict(zip(lands, cities)),
            ),
            Relation(
                (
                    "What does {k} sell to other countries?",
                    "Which goods does {k} export?",
                    "What is the main export of {k}?",
                    "{k} is known for trade in what?",
                ),
                ("{k} exports {v}.", "Traders from {k} sell {v}."),
                drawn(rng, lands, "wool salt copper tea timber silk grain honey"),
            ),
        ),
        "animals": (
            Relation(
                (
                    "Where does the {k} live?",
                    "In what place is the {k} found?",
                    "What is the home of the {k}?",
                    "Where would you look for a {k}?",
                ),
                ("The {k} lives in the {v}.", "In the {v} you may meet a {k}."),
                drawn(rng, animals, "forest desert sea river mountains swamp cave meadow"),
            ),
            Relation(
                (
                    "What does the {k} eat?",
                    "Which food does the {k} like?",
                    "What is the food of the {k}?",
                    "What would you feed a {k}?",
                ),
                ("The {k} eats {v}.", "A hungry {k} looks for {v}."),
                drawn(rng, animals, "grass fish nuts insects berries roots eggs leaves"),
            ),
        ),
        "people": (
            Relation(
                (
                    "What is the trade of {k}?",
                    "What work does {k} do?",
                    "How does {k} earn a living?",
                    "What is {k} by profession?",
                ),
                ("{k} works as a {v}.", "The {v} is called {k}."),
                drawn(rng, people, "baker smith tailor sailor doctor farmer teacher painter"),
            ),
            Relation(
                (
                    "Which instrument does {k} play?",
                    "What does {k} play in the band?",
                    "On what does {k} make music?",
                    "What instrument belongs to {k}?",
                ),
                ("{k} plays the {v}.", "One hears {k} on the {v}."),
                drawn(rng, people, "flute drum violin harp trumpet piano guitar organ"),
            ),
        ),
        "numbers": (
            Relation(
                ("Which number comes after {k}?", "What is one more than {k}?", "What follows {k} when you count?"),
                ("After {k} comes {v}.",),
                {k: str(int(k) + 1) for k in numbers},
            ),
            Relation(
                (
                    "Which number comes before {k}?",
                    "What is one less than {k}?",
                    "What stands before {k} when you count?",
                ),
                ("Before {k} comes {v}.",),
                {k: str(int(k) - 1) for k in numbers},
            ),
            Relation(
                ("What is twice {k}?", "How much is {k} doubled?", "What is two times {k}?"),
                ("Twice {k} is {v}.",),
                {k: str(2 * int(k)) for k in numbers},
            ),
        ),
    }


def pairs(text: str) -> dict[str, str]:
    """ "大小 多少" -> {"大": "小", "多": "少"}; with a colon, "水果:苹果,梨" -> {"苹果": "水果", "梨": "水果"}."""
    table = {}
    for entry in text.split():
        head, _, members = entry.partition(":")
        table |= {member: head for member in members.split(",")} if members else {entry[:-1]: entry[-1]}
    return table


OPPOSITES = pairs(
    "大小 多少 高低 长短 快慢 冷热 新旧 黑白 远近 轻重 早晚 胖瘦 软硬 深浅 厚薄 粗细 强弱 真假 好坏 甜苦 干湿 明暗 贫富 左右 上下 前后 里外 "
    "开关 进退 买卖 来去 哭笑 生死 胜败 爱恨 升降 起落 攻守 得失 老幼 宽窄 动静 公私 古今 男女 天地 东西 南北 日夜 首尾"
)
CHINESE = {
    "antonyms": (
        Relation(
            (
                "“{k}”的反义词是什么？",
                "和“{k}”意思相反的字是哪个？",
                "哪个字的意思与“{k}”正好相反？",
                "“{k}”反过来说是什么？",
            ),
            ("“{k}”和“{v}”意思相反。", "不是{k}，就是{v}。"),
            OPPOSITES | {v: k for k, v in OPPOSITES.items()},
        ),
    ),
    "measures": (
        Relation(
            (
                "“{k}”用哪个量词？",
                "数{k}的时候用什么量词？",
                "一＿{k}，空格里填哪个量词？",
                "说{k}有几个时，该用哪个量词？",
            ),
            ("我看见一{v}{k}。", "他家有三{v}{k}。"),
            pairs(
                "本:书,词典,日记,杂志 匹:马,布,骆驼 头:牛,猪,大象,驴 条:鱼,河,路,蛇,裤子,毛巾,龙 只:猫,鸡,鸟,老虎,兔子,羊,鸭子 朵:花,云,玫瑰 "
                "棵:树,草,白菜,松树 辆:车,自行车,卡车,火车 张:纸,桌子,床,地图,照片,票 把:刀,伞,椅子,钥匙,扇子,锁 支:笔,铅笔,香烟,军队 "
                "件:衣服,大衣,衬衫,礼物 座:山,桥,城,塔 首:歌,诗,曲子 双:鞋,筷子,袜子,手套 架:飞机,钢琴,相机 颗:星星,牙,珍珠,糖"
            ),
        ),
    ),
    "kinds": (
        Relation(
            ("“{k}”属于哪一类？", "{k}是一种什么？", "{k}算哪一类？", "把{k}归到哪一类才对？"),
            ("{k}是{v}。", "说到{v}，人们会想到{k}。"),
            pairs(
                "水果:苹果,香蕉,葡萄,西瓜,桃子,橘子,草莓 蔬菜:白菜,萝卜,黄瓜,菠菜,土豆,茄子 动物:老虎,狮子,兔子,猴子,熊猫,大象 颜色:红色,蓝色,绿色,黄色,紫色,灰色 "
                "乐器:钢琴,笛子,二胡,古筝,吉他,琵琶 家具:桌子,椅子,沙发,柜子,书架,床 职业:医生,教师,司机,厨师,农民,律师 天气:晴天,阴天,下雨,下雪,刮风,打雷 "
                "节日:春节,中秋,端午,元宵,清明,重阳 运动:足球,篮球,游泳,跑步,乒乓球,滑冰"
            ),
        ),
    ),
}
IDIOMS = {  # other Chinese knowledge, asked in other words: what a router has not seen
    "idioms": (
        Relation(
            ("补全成语：{k}＿", "成语“{k}”后面是哪个字？", "“{k}”加上哪个字成为成语？", "成语填空：{k}（）"),
            ("他常说“{k}{v}”。", "“{k}{v}”是一个成语。"),
            pairs(
                "画蛇添足 守株待兔 井底之蛙 亡羊补牢 掩耳盗铃 刻舟求剑 对牛弹琴 狐假虎威 叶公好龙 自相矛盾 杯弓蛇影 南辕北辙 滥竽充数 打草惊蛇 一心一意 三心二意 "
                "四面八方 五颜六色 七上八下 九牛一毛 十全十美 百发百中 千山万水 马到成功 水落石出 风和日丽 鸟语花香 山清水秀 春暖花开 半途而废 不劳而获 胸有成竹"
            ),
        ),
    ),
    "capitals": (
        Relation(
            ("{k}的首都是哪里？", "哪座城市是{k}的首都？", "{k}的首都叫什么名字？", "{k}的政府设在哪座城市？"),
            ("{v}是{k}的首都。", "{k}的首都是{v}。"),
            pairs(
                "北京:中国 东京:日本 巴黎:法国 伦敦:英国 柏林:德国 罗马:意大利 马德里:西班牙 莫斯科:俄罗斯 开罗:埃及 曼谷:泰国 河内:越南 首尔:韩国 雅典:希腊 渥太华:加拿大 "
                "堪培拉:澳大利亚 新德里:印度 里斯本:葡萄牙 维也纳:奥地利 伯尔尼:瑞士 奥斯陆:挪威 华沙:波兰 布达佩斯:匈牙利 安卡拉:土耳其 德黑兰:伊朗 利马:秘鲁 哈瓦那:古巴"
            ),
        ),
    ),
}


@dataclass(frozen=True)
class Operation:
    """What a short function does. `says` and `body` have {a}, {b} (arguments) and {k}, {m} (digits); `names` may have {k}, {m}."""

    kind: str  # of its arguments: number, pair, list or text
    names: tuple[str, ...]
    says: tuple[str, ...]
    body: str


PARAMETERS = {  # how functions may call their arguments, and what a task description calls them
    "number": ((("x",), ("n",), ("value",)), ("a number",)),
    "pair": ((("a", "b"), ("x", "y"), ("left", "right")), ("one number", "another")),
    "list": ((("items",), ("values",), ("numbers",)), ("a list",)),
    "text": ((("text",), ("word",), ("s",)), ("a string",)),
}
OPERATIONS = (
    Operation(
        "number",
        ("add_{k}", "plus_{k}"),
        ("add {k} to {a}", "return {a} plus {k}", "return the sum of {a} and {k}"),
        "{a} + {k}",
    ),
    Operation(
        "number",
        ("subtract_{k}", "minus_{k}"),
        ("subtract {k} from {a}", "return {a} minus {k}", "take {k} away from {a}"),
        "{a} - {k}",
    ),
    Operation(
        "number",
        ("times_{k}", "multiply_{k}"),
        ("multiply {a} by {k}", "return {a} times {k}", "return the product of {a} and {k}"),
        "{a} * {k}",
    ),
    Operation(
        "number",
        ("remainder_{k}", "mod_{k}"),
        ("return the remainder of {a} divided by {k}", "return {a} modulo {k}"),
        "{a} % {k}",
    ),
    Operation(
        "number",
        ("multiple_of_{k}", "divisible_by_{k}"),
        ("check whether {a} is a multiple of {k}", "tell if {a} is divisible by {k}"),
        "{a} % {k} == 0",
    ),
    Operation(
        "number",
        ("above_{k}", "more_than_{k}"),
        ("check whether {a} is greater than {k}", "tell if {a} is above {k}"),
        "{a} > {k}",
    ),
    Operation(
        "number",
        ("below_{k}", "less_than_{k}"),
        ("check whether {a} is less than {k}", "tell if {a} is below {k}"),
        "{a} < {k}",
    ),
    Operation(
        "number",
        ("at_least_{k}", "floor_{k}"),
        ("return the larger of {a} and {k}", "return {a}, but at least {k}"),
        "max({a}, {k})",
    ),
    Operation(
        "number",
        ("at_most_{k}", "cap_{k}"),
        ("return the smaller of {a} and {k}", "return {a}, but at most {k}"),
        "min({a}, {k})",
    ),
    Operation(
        "number",
        ("add_{k}_and_double", "plus_{k}_twice"),
        ("add {k} to {a} and double the result", "return twice the sum of {a} and {k}"),
        "({a} + {k}) * 2",
    ),
    Operation(
        "number",
        ("square_plus_{k}", "squared_and_{k}"),
        ("square {a} and add {k}", "return the square of {a} plus {k}"),
        "{a} * {a} + {k}",
    ),
    Operation(
        "number",
        ("scale_{k}_add_{m}",),
        ("multiply {a} by {k} and add {m}", "return {a} times {k}, plus {m}"),
        "{a} * {k} + {m}",
    ),
    Operation(
        "number",
        ("add_{k}_scale_{m}",),
        ("add {k} to {a} and multiply the result by {m}", "return {a} plus {k}, all of it times {m}"),
        "({a} + {k}) * {m}",
    ),
    Operation("pair", ("add", "total"), ("add {a} and {b}", "return the sum of {a} and {b}"), "{a} + {b}"),
    Operation("pair", ("difference", "subtract"), ("subtract {b} from {a}", "return {a} minus {b}"), "{a} - {b}"),
    Operation(
        "pair", ("product", "multiply"), ("multiply {a} and {b}", "return the product of {a} and {b}"), "{a} * {b}"
    ),
    Operation(
        "pair",
        ("larger", "maximum"),
        ("return the larger of {a} and {b}", "choose the greater of {a} and {b}"),
        "max({a}, {b})",
    ),
    Operation(
        "pair",
        ("smaller", "minimum"),
        ("return the smaller of {a} and {b}", "choose the lesser of {a} and {b}"),
        "min({a}, {b})",
    ),
    Operation(
        "pair",
        ("same", "equal"),
        ("check whether {a} and {b} are equal", "tell if {a} is the same as {b}"),
        "{a} == {b}",
    ),
    Operation(
        "pair",
        ("sum_plus_{k}", "total_and_{k}"),
        ("add {a} and {b}, then add {k}", "return the sum of {a} and {b} plus {k}"),
        "{a} + {b} + {k}",
    ),
    Operation(
        "list",
        ("first_{k}", "take_{k}"),
        ("return the first {k} elements of {a}", "keep only the first {k} of {a}"),
        "{a}[:{k}]",
    ),
    Operation(
        "list",
        ("skip_{k}", "drop_{k}"),
        ("return {a} without its first {k} elements", "leave out the first {k} of {a}"),
        "{a}[{k}:]",
    ),
    Operation(
        "list",
        ("count_{k}", "how_many_{k}"),
        ("count how often {k} occurs in {a}", "return how many times {a} has {k}"),
        "{a}.count({k})",
    ),
    Operation(
        "list", ("contains_{k}", "has_{k}"), ("check whether {k} is in {a}", "tell if {a} contains {k}"), "{k} in {a}"
    ),
    Operation(
        "list",
        ("add_{k}_to_all", "raise_by_{k}"),
        ("add {k} to each element of {a}", "raise every element of {a} by {k}"),
        "[i + {k} for i in {a}]",
    ),
    Operation(
        "list",
        ("scale_by_{k}", "times_{k}_each"),
        ("multiply each element of {a} by {k}", "scale every element of {a} by {k}"),
        "[i * {k} for i in {a}]",
    ),
    Operation(
        "list",
        ("keep_above_{k}", "over_{k}"),
        ("keep the elements of {a} that are greater than {k}", "return those of {a} above {k}"),
        "[i for i in {a} if i > {k}]",
    ),
    Operation(
        "list",
        ("add_{k}_above_{m}",),
        ("add {k} to the elements of {a} that exceed {m}", "keep those of {a} above {m} and add {k}"),
        "[i + {k} for i in {a} if i > {m}]",
    ),
    Operation(
        "list",
        ("skip_{k}_scale_{m}",),
        ("skip the first {k} of {a} and multiply the rest by {m}", "drop {k} from {a} and scale by {m}"),
        "[i * {m} for i in {a}[{k}:]]",
    ),
    Operation(
        "list",
        ("sum_plus_{k}", "total_and_{k}"),
        ("return the sum of {a} plus {k}", "add up {a} and then add {k}"),
        "sum({a}) + {k}",
    ),
    Operation("list", ("total", "sum_all"), ("return the sum of {a}", "add up {a}"), "sum({a})"),
    Operation("list", ("size", "how_many"), ("return the length of {a}", "count the elements of {a}"), "len({a})"),
    Operation(
        "list", ("largest", "biggest"), ("return the largest element of {a}", "find the maximum of {a}"), "max({a})"
    ),
    Operation("list", ("ordered", "sort_up"), ("return {a} sorted", "put {a} in order"), "sorted({a})"),
    Operation("list", ("backwards", "turned"), ("return {a} reversed", "turn {a} around"), "{a}[::-1]"),
    Operation("text", ("repeat_{k}", "copies_{k}"), ("repeat {a} {k} times", "return {k} copies of {a}"), "{a} * {k}"),
    Operation(
        "text",
        ("start_{k}", "prefix_{k}"),
        ("return the first {k} characters of {a}", "keep the first {k} letters of {a}"),
        "{a}[:{k}]",
    ),
    Operation("text", ("size", "letters"), ("return the length of {a}", "count the letters of {a}"), "len({a})"),
    Operation(
        "text", ("shout", "capitals"), ("return {a} in upper case", "make all letters of {a} capital"), "{a}.upper()"
    ),
    Operation(
        "text", ("whisper", "small"), ("return {a} in lower case", "make all letters of {a} small"), "{a}.lower()"
    ),
    Operation("text", ("mirror", "backwards"), ("return {a} reversed", "spell {a} backwards"), "{a}[::-1]"),
)
