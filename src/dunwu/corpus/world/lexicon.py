"""The words of the small world, in English and Chinese, and the syllables from which further names are made.

Every entity and every value has one name in each language; a word is a `Word(en, zh)`.
"""

from typing import NamedTuple

from dunwu.core.recipe import Language


class Word(NamedTuple):
    """One meaning in both languages."""

    en: str
    zh: str

    def name(self, language: Language) -> str:
        return self.en if language == "en" else self.zh


def _words(table: str) -> tuple[Word, ...]:
    pairs = [entry.split() for entry in table.split(",")]
    return tuple(Word(en.replace("_", " "), zh) for en, zh in pairs)


PEOPLE = _words(
    "Anna 安娜, Ben 本杰明, Clara 克拉拉, David 大卫, Emma 艾玛, Frank 弗兰克, Grace 格蕾丝, Henry 亨利, Ivy 艾薇, "
    "Jack 杰克, Kate 凯特, Leo 利奥, Mary 玛丽, Nick 尼克, Olga 奥尔加, Peter 彼得, Rosa 罗莎, Sam 山姆, Tom 汤姆, "
    "Vera 维拉, Ming 小明, Fang 小芳, Lan 小兰, Gang 小刚"
)
PLACES = _words(
    "Paris 巴黎, London 伦敦, Rome 罗马, Berlin 柏林, Beijing 北京, Tokyo 东京, Cairo 开罗, Madrid 马德里, "
    "Vienna 维也纳, Athens 雅典, Oslo 奥斯陆, Lima 利马"
)
# In the order of PLACES: these are true of the real world.
COUNTRIES = _words(
    "France 法国, England 英国, Italy 意大利, Germany 德国, China 中国, Japan 日本, Egypt 埃及, Spain 西班牙, "
    "Austria 奥地利, Greece 希腊, Norway 挪威, Peru 秘鲁"
)
JOBS = _words(
    "baker 面包师, teacher 老师, doctor 医生, farmer 农民, singer 歌手, painter 画家, driver 司机, pilot 飞行员, "
    "nurse 护士, writer 作家"
)
FOODS = _words(
    "soup 热汤, bread 面包, rice 米饭, cake 蛋糕, cheese 奶酪, salad 沙拉, honey 蜂蜜, tofu 豆腐, noodles 面条, corn 玉米"
)
COLOURS = _words("red 红色, blue 蓝色, green 绿色, yellow 黄色, black 黑色, white 白色, brown 棕色, pink 粉色")
HOBBIES = _words(
    "chess 下棋, music 音乐, tennis 网球, dance 跳舞, sewing 缝纫, fishing 钓鱼, rowing 划船, gardening 园艺"
)
MATERIALS = _words("wood 木头, glass 玻璃, iron 铁皮, paper 纸张, gold 黄金, stone 石头, clay 黏土, silk 丝绸")

OBJECTS = _words(
    "lamp 台灯, book 书本, cup 杯子, hat 帽子, clock 闹钟, drum 小鼓, violin 提琴, kite 风筝, ball 皮球, doll 娃娃, "
    "vase 花瓶, mirror 镜子, brush 刷子, candle 蜡烛, spoon 勺子, plate 盘子, pen 钢笔, ring 戒指, coat 外套, bell 铃铛, "
    "flute 笛子, map 地图, umbrella 雨伞, pillow 枕头, rope 绳子, hammer 锤子, camera 相机, shoe 鞋子, fan 扇子, "
    "comb 梳子, key 钥匙, scarf 围巾, mask 面具, crown 王冠, sword 宝剑, broom 扫帚"
)
CONTAINERS = _words(
    "box 盒子, bag 袋子, basket 篮子, drawer 抽屉, chest 箱子, suitcase 皮箱, barrel 木桶, bucket 水桶, cupboard 柜子, "
    "jar 罐子, sack 麻袋, cart 推车, pot 铁锅, tub 澡盆"
)

MAMMALS = _words("cat 小猫, dog 小狗, horse 马儿, cow 奶牛, lion 狮子, rabbit 兔子, sheep 绵羊, tiger 老虎, mouse 老鼠")
BIRDS = _words("hen 母鸡, duck 鸭子, owl 猫头鹰, crow 乌鸦, eagle 老鹰, swan 天鹅, goose 大鹅")
FISHES = _words("carp 鲤鱼, trout 鳟鱼, shark 鲨鱼, tuna 金枪鱼")
INSECTS = _words("ant 蚂蚁, bee 蜜蜂, beetle 甲虫, cricket 蟋蟀")
CARS = _words("taxi 出租车, jeep 吉普车, limousine 轿车, truck 卡车")
PLANTS = _words("rose 玫瑰, oak 橡树, tulip 郁金香, pine 松树, cactus 仙人掌")
SKY_BODIES = _words("sun 太阳, moon 月亮, comet 彗星, star 星星")

CLASSES = _words("mammal 哺乳动物, bird 鸟类, fish 鱼类, insect 昆虫, car 汽车, plant 植物, sky_body 天体")
MAMMAL, BIRD, FISH, INSECT, CAR, PLANT, SKY_BODY = CLASSES
MEMBERS: dict[Word, tuple[Word, ...]] = {
    MAMMAL: MAMMALS,
    BIRD: BIRDS,
    FISH: FISHES,
    INSECT: INSECTS,
    CAR: CARS,
    PLANT: PLANTS,
    SKY_BODY: SKY_BODIES,
}
ANIMAL_CLASSES = (MAMMAL, BIRD, FISH, INSECT)

# Parts, in the plural, with the Chinese measure word; singular for English counts of one.
PARTS = _words("eyes 眼睛, legs 腿, wings 翅膀, tails 尾巴, ears 耳朵, wheels 轮子")
EYES, LEGS, WINGS, TAILS, EARS, WHEELS = PARTS
MEASURES = {EYES: "只", LEGS: "条", WINGS: "只", TAILS: "条", EARS: "只", WHEELS: "个"}

# How many of each part a member of a class has. What is disputable (do insects have wings?) is left out and never asked.
PART_COUNTS: dict[Word, dict[Word, int]] = {
    MAMMAL: {EYES: 2, LEGS: 4, WINGS: 0, TAILS: 1, EARS: 2, WHEELS: 0},
    BIRD: {EYES: 2, LEGS: 2, WINGS: 2, TAILS: 1, WHEELS: 0},
    FISH: {EYES: 2, LEGS: 0, WINGS: 0, TAILS: 1, WHEELS: 0},
    INSECT: {EYES: 2, LEGS: 6, WHEELS: 0},
    CAR: {EYES: 0, LEGS: 0, WINGS: 0, TAILS: 0, EARS: 0, WHEELS: 4},
    PLANT: {EYES: 0, LEGS: 0, WINGS: 0, TAILS: 0, EARS: 0, WHEELS: 0},
    SKY_BODY: {EYES: 0, LEGS: 0, WINGS: 0, TAILS: 0, EARS: 0, WHEELS: 0},
}

# Things that are counted in sums, in the plural.
COUNTED = _words("apples 苹果, pears 梨子, eggs 鸡蛋, coins 硬币, stones 石子, nuts 坚果, cards 卡片, stamps 邮票")
END_WORDS = _words("thanks 谢谢, goodbye 再见, done 完毕, okay 好的")

_SYLLABLES = _words(
    "zo 佐, ra 拉, mi 米, ko 科, lu 卢, ne 内, ta 塔, vi 维, bo 波, fe 菲, ga 加, du 杜, si 西, pa 帕, jo 乔, wu 伍"
)


FAMILIES = 16  # made-up words come in families that share no word


def fictional(family: int, number: int) -> Word:
    """A made-up word: three syllables for the first 256 of a family, one more for each further factor of 16."""
    base = len(_SYLLABLES)
    index = family + FAMILIES * number
    spread = index * 1_237 % base**3 if index < base**3 else index  # neighbours should not look alike
    syllables: list[Word] = []
    while len(syllables) < 3 or spread:
        syllables.append(_SYLLABLES[spread % base])
        spread //= base
    return Word("".join(syllable.en for syllable in syllables), "".join(syllable.zh for syllable in syllables))
