"""The words of the demo corpus, English and German side by side, as tables that can be proof-read.

One English word has one German counterpart wherever it can be used the same way (``wear`` and ``carry`` may share
``tragen``, never the reverse), so that the translation is a function of the English sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .paradigms import Case, Forms, Gender, person_forms


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun: English parts (two for a German compound), German forms, what it can be used as."""

    english: tuple[str, ...]
    english_plural: tuple[str, ...]
    gender: Gender
    german: str
    genitive: str
    plural: str
    tags: tuple[str, ...]

    @property
    def human(self) -> bool:
        return not {"person", "kin", "name", "owner"}.isdisjoint(self.tags)

    def decline(self, case: Case, *, plural: bool) -> str:
        """The German form; weak masculine nouns (genitive in -n) keep that form in all cases but the first."""
        if plural:
            assert self.plural, self.german
            return self.plural + "n" if case == "dative" and self.plural[-1] not in "ns" else self.plural
        weak = self.gender == "m" and self.genitive.endswith("n")
        if case == "genitive" or (weak and case != "nominative"):
            return self.genitive
        return self.german


def _nouns(table: str) -> tuple[Noun, ...]:
    genders: dict[str, Gender] = {"m": "m", "f": "f", "n": "n"}
    nouns = []
    for row in table.strip().splitlines():
        english, german, tags = (column.split() for column in row.split("|"))
        singular, plural = (form.replace("-", "").replace("_", " ").split() for form in english)
        gender, *forms = german
        nominative, genitive, german_plural = forms
        parts, plural_parts = tuple(singular), tuple(plural)
        german_forms = (nominative, genitive, german_plural.strip("-"))
        nouns.append(Noun(parts, plural_parts, genders[gender], *german_forms, tuple(tags)))
    return tuple(nouns)


# English singular and plural ("-": never used in the plural, "_" between the parts of a compound) |
# gender, nominative, genitive, plural | uses. "he" and "she" say which pronoun stands for a person.
NOUNS = _nouns("""
man men                      | m Mann Mannes Männer               | person he
woman women                  | f Frau Frau Frauen                 | person she
child children               | n Kind Kindes Kinder               | minor person
boy boys                     | m Junge Jungen Jungen              | minor person he
girl girls                   | n Mädchen Mädchens Mädchen         | minor person
teacher teachers             | m Lehrer Lehrers Lehrer            | person he
doctor doctors               | f Ärztin Ärztin Ärztinnen          | person she doctor
neighbour neighbours         | m Nachbar Nachbarn Nachbarn        | person he
student students             | m Student Studenten Studenten      | person he
guest guests                 | m Gast Gastes Gäste                | person he
mother mothers               | f Mutter Mutter Mütter             | kin she
father fathers               | m Vater Vaters Väter               | kin he
brother brothers             | m Bruder Bruders Brüder            | kin he siblings
sister sisters               | f Schwester Schwester Schwestern   | kin she siblings
uncle uncles                 | m Onkel Onkels Onkel               | kin he
aunt aunts                   | f Tante Tante Tanten               | kin she
friend friends               | m Freund Freundes Freunde          | kin he siblings
dog dogs                     | m Hund Hundes Hunde                | animal
cat cats                     | f Katze Katze Katzen               | animal
horse horses                 | n Pferd Pferdes Pferde             | animal
bird birds                   | m Vogel Vogels Vögel               | animal
book books                   | n Buch Buches Bücher               | text flat goods
letter letters               | m Brief Briefes Briefe             | text flat written
newspaper newspapers         | f Zeitung Zeitung Zeitungen        | text flat
poem poems                   | n Gedicht Gedichtes Gedichte       | text written
picture_book picture_books   | n Bilderbuch Bilderbuches Bilderbücher | text flat goods
apple apples                 | m Apfel Apfels Äpfel               | food
egg eggs                     | n Ei Eies Eier                     | food cooked
bread -                      | n Brot Brotes -                    | food baked mass
cheese -                     | m Käse Käses -                     | food mass
cake cakes                   | m Kuchen Kuchens Kuchen            | food baked
chocolate_cake chocolate_cakes | m Schokoladenkuchen Schokoladenkuchens Schokoladenkuchen | food baked
soup soups                   | f Suppe Suppe Suppen               | food cooked
vegetable_soup vegetable_soups | f Gemüsesuppe Gemüsesuppe Gemüsesuppen | food cooked
milk -                       | f Milch Milch -                    | drink mass
coffee -                     | m Kaffee Kaffees -                 | drink mass
tea -                        | m Tee Tees -                       | drink mass
apple_juice -                | m Apfelsaft Apfelsaftes -          | drink mass
door doors                   | f Tür Tür Türen                    | opening
window windows               | n Fenster Fensters Fenster         | opening window
suitcase suitcases           | m Koffer Koffers Koffer            | opening luggage
box boxes                    | f Kiste Kiste Kisten               | opening luggage
front_door front_doors       | f Haustür Haustür Haustüren        | opening
kitchen_window kitchen_windows | n Küchenfenster Küchenfensters Küchenfenster | opening window
coat coats                   | m Mantel Mantels Mäntel            | garment goods coat
winter_coat winter_coats     | m Wintermantel Wintermantels Wintermäntel | garment goods coat
dress dresses                | n Kleid Kleides Kleider            | garment goods
jacket jackets               | f Jacke Jacke Jacken               | garment goods coat
hat hats                     | m Hut Hutes Hüte                   | garment goods
lamp lamps                   | f Lampe Lampe Lampen               | device goods
radio radios                 | n Radio Radios Radios              | device goods
computer computers           | m Computer Computers Computer      | device goods
car cars                     | n Auto Autos Autos                 | vehicle goods
bicycle bicycles             | n Fahrrad Fahrrades Fahrräder      | vehicle goods
bus buses                    | m Bus Busses Busse                 | transport
train trains                 | m Zug Zuges Züge                   | transport
school_bus school_buses      | m Schulbus Schulbusses Schulbusse  | transport
table tables                 | m Tisch Tisches Tische             | surface goods
chair chairs                 | m Stuhl Stuhles Stühle             | surface seat goods
bed beds                     | n Bett Bettes Betten               | surface seat goods
key keys                     | m Schlüssel Schlüssels Schlüssel   | flat thing
car_key car_keys             | m Autoschlüssel Autoschlüssels Autoschlüssel | flat thing
bag bags                     | f Tasche Tasche Taschen            | luggage goods
picture pictures             | n Bild Bildes Bilder               | painted goods
flower flowers               | f Blume Blume Blumen               | painted goods
gift gifts                   | n Geschenk Geschenkes Geschenke    | thing gift
umbrella umbrellas           | m Regenschirm Regenschirmes Regenschirme | thing goods
garden gardens               | m Garten Gartens Gärten            | place outside
park parks                   | m Park Parks Parks                 | place outside
forest forests               | m Wald Waldes Wälder               | place outside
kitchen kitchens             | f Küche Küche Küchen               | place indoors room
living_room living_rooms     | n Wohnzimmer Wohnzimmers Wohnzimmer | place indoors room
room rooms                   | n Zimmer Zimmers Zimmer            | place indoors room
city cities                  | f Stadt Stadt Städte               | place town
village villages             | n Dorf Dorfes Dörfer               | place town
library libraries            | f Bibliothek Bibliothek Bibliotheken | place building
museum museums               | n Museum Museums Museen            | place building
station stations             | m Bahnhof Bahnhofes Bahnhöfe       | place stop
house houses                 | n Haus Hauses Häuser               | place indoors house
owner owners                 | m Besitzer Besitzers Besitzer      | owner he
""")
# No name ends in s, x or z: their German genitive would be written with an apostrophe.
NAMES = _nouns("""
Anna - | f Anna Annas -     | name she
Maria - | f Maria Marias -  | name she
Lena - | f Lena Lenas -     | name she
Emma - | f Emma Emmas -     | name she
Peter - | m Peter Peters -  | name he
Paul - | m Paul Pauls -     | name he
Tom - | m Tom Toms -        | name he
Martin - | m Martin Martins - | name he
""")


@dataclass(frozen=True, slots=True)
class Adjective:
    """An adjective: English, German, the German stem that takes endings, and the comparatives."""

    english: str
    german: str
    stem: str
    english_comparative: tuple[str, ...] = ()
    german_comparative: str = ""


def _adjectives(table: str) -> dict[str, Adjective]:
    adjectives = {}
    for row in table.strip().splitlines():
        words, *more = row.split("|")
        english, german, stem = words.split()
        *english_comparative, german_comparative = more[0].split() if more else [""]
        adjectives[english] = Adjective(english, german, stem, tuple(english_comparative), german_comparative)
    return adjectives


ADJECTIVES = _adjectives("""
new neu neu
old alt alt | older älter
young jung jung | younger jünger
tall groß groß | taller größer
big groß groß | bigger größer
small klein klein | smaller kleiner
beautiful schön schön | more beautiful schöner
expensive teuer teur | more expensive teurer
cheap billig billig | cheaper billiger
red rot rot
blue blau blau
heavy schwer schwer | heavier schwerer
fresh frisch frisch
warm warm warm
cold kalt kalt
friendly freundlich freundlich
tired müde müd
hungry hungrig hungrig
happy glücklich glücklich
ill krank krank
broken kaputt kaputt
""")


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb. English ``particle`` moves behind a pronoun (``picks it up``); ``preposition`` never does.

    ``german_prefix`` is the separable prefix. ``present`` and ``preterite`` are finite forms without it; a verb
    without preterite forms its past with ``auxiliary`` (haben or sein) and the participle. ``case`` is what the
    verb demands of its object.
    """

    base: str
    present3: str
    past: str
    participle: str
    progressive: str
    particle: str
    preposition: str
    german_prefix: str
    infinitive: str
    present: Forms
    preterite: Forms
    german_participle: str
    auxiliary: Literal["haben", "sein"]
    case: Case

    @property
    def head(self) -> str:
        """turn/off, as in the table"""
        return f"{self.base}/{self.particle}" if self.particle else self.base

    @property
    def full_infinitive(self) -> str:
        """aufmachen"""
        return self.german_prefix + self.infinitive

    @property
    def zu_infinitive(self) -> str:
        """aufzumachen; empty for an inseparable verb, whose zu is a word of its own."""
        return self.german_prefix + "zu" + self.infinitive if self.german_prefix else ""


def _verbs(table: str) -> dict[str, Verb]:
    verbs = {}
    for row in table.strip().splitlines():
        english, german, *options = (column.split() for column in row.split("|"))
        (head, third, past, participle), progressive = english[:4], english[4:]
        base, _, particle = head.partition("/")
        base, _, preposition = base.partition("+")
        prefix, _, infinitive = german[0].rpartition("/")
        assert infinitive.endswith("en"), row
        flags = options[0] if options else []
        verbs[head] = Verb(
            base, third, past, participle, progressive[0] if progressive else "", particle, preposition,
            prefix, infinitive, person_forms(infinitive[:-1], german[1], german[2], infinitive), {}, prefix + german[3],
            "sein" if "sein" in flags else "haben", "dative" if "dative" in flags else "accusative",
        )  # fmt: skip
    return verbs


# English base (/movable particle, +preposition), third person, past, participle, -ing where it is used |
# German (prefix/)infinitive, second person, third person, participle | sein, dative
VERBS = _verbs("""
sleep sleeps slept slept sleeping                | schlafen schläfst schläft geschlafen
laugh laughs laughed laughed laughing            | lachen lachst lacht gelacht
work works worked worked working                 | arbeiten arbeitest arbeitet gearbeitet
dance dances danced danced dancing               | tanzen tanzt tanzt getanzt
sing sings sang sung singing                     | singen singst singt gesungen
play plays played played playing                 | spielen spielst spielt gespielt
wait waits waited waited waiting                 | warten wartest wartet gewartet
swim swims swam swum                             | schwimmen schwimmst schwimmt geschwommen | sein
stay stays stayed stayed                         | bleiben bleibst bleibt geblieben | sein
sit sits sat sat sitting                         | sitzen sitzt sitzt gesessen
live lives lived lived                           | wohnen wohnst wohnt gewohnt
go goes went gone                                | gehen gehst geht gegangen | sein
run runs ran run running                         | laufen läufst läuft gelaufen | sein
drive drives drove driven                        | fahren fährst fährt gefahren | sein
come/back comes came come                        | zurück/kommen kommst kommt gekommen | sein
get/up gets got got                              | auf/stehen stehst steht gestanden | sein
wake/up wakes woke woken                         | auf/wachen wachst wacht gewacht | sein
arrive arrives arrived arrived                   | an/kommen kommst kommt gekommen | sein
rain rains rained rained raining                 | regnen regnest regnet geregnet
read reads read read reading                     | lesen liest liest gelesen
write writes wrote written writing               | schreiben schreibst schreibt geschrieben
buy buys bought bought                           | kaufen kaufst kauft gekauft
sell sells sold sold                             | verkaufen verkaufst verkauft verkauft
eat eats ate eaten eating                        | essen isst isst gegessen
drink drinks drank drunk drinking                | trinken trinkst trinkt getrunken
bake bakes baked baked baking                    | backen bäckst bäckt gebacken
cook cooks cooked cooked cooking                 | kochen kochst kocht gekocht
see sees saw seen                                | sehen siehst sieht gesehen
find finds found found                           | finden findest findet gefunden
look+for looks looked looked                     | suchen suchst sucht gesucht
look+at looks looked looked                      | an/sehen siehst sieht gesehen
visit visits visited visited                     | besuchen besuchst besucht besucht
know knows knew known                            | kennen kennst kennt gekannt
love loves loved loved                           | lieben liebst liebt geliebt
need needs needed needed                         | brauchen brauchst braucht gebraucht
forget forgets forgot forgotten                  | vergessen vergisst vergisst vergessen
paint paints painted painted painting            | malen malst malt gemalt
repair repairs repaired repaired repairing       | reparieren reparierst repariert repariert
carry carries carried carried                    | tragen trägst trägt getragen
wear wears wore worn                             | tragen trägst trägt getragen
receive receives received received               | bekommen bekommst bekommt bekommen
put puts put put                                 | legen legst legt gelegt
open opens opened opened                         | auf/machen machst macht gemacht
close closes closed closed                       | zu/machen machst macht gemacht
turn/on turns turned turned                      | an/machen machst macht gemacht
turn/off turns turned turned                     | aus/machen machst macht gemacht
call calls called called                         | an/rufen rufst ruft gerufen
invite invites invited invited                   | ein/laden lädst lädt geladen
pick/up picks picked picked                      | ab/holen holst holt geholt
bring/along brings brought brought               | mit/bringen bringst bringt gebracht
tidy/up tidies tidied tidied                     | auf/räumen räumst räumt geräumt
throw/away throws threw thrown                   | weg/werfen wirfst wirft geworfen
try/on tries tried tried                         | an/probieren probierst probiert probiert
help helps helped helped                         | helfen hilfst hilft geholfen | dative
thank thanks thanked thanked                     | danken dankst dankt gedankt | dative
follow follows followed followed                 | folgen folgst folgt gefolgt | sein dative
belong+to belongs belonged belonged              | gehören gehörst gehört gehört | dative
give gives gave given                            | geben gibst gibt gegeben
show shows showed shown                          | zeigen zeigst zeigt gezeigt
send sends sent sent                             | schicken schickst schickt geschickt
like likes liked liked                           | gefallen gefällst gefällt gefallen | dative
say says said said                               | sagen sagst sagt gesagt
hope hopes hoped hoped                           | hoffen hoffst hofft gehofft
believe believes believed believed               | glauben glaubst glaubt geglaubt
ask asks asked asked                             | fragen fragst fragt gefragt
try tries tried tried                            | versuchen versuchst versucht versucht
begin begins began begun                         | beginnen beginnst beginnt begonnen
""")
BE = Verb(
    "be", "is", "was", "been", "being", "", "", "", "sein", person_forms("bin", "bist", "ist", "sind"),
    person_forms("war", "warst", "war", "waren"), "gewesen", "sein", "nominative",
)  # fmt: skip
HAVE = Verb(
    "have", "has", "had", "had", "having", "", "", "", "haben", person_forms("habe", "hast", "hat", "haben"),
    person_forms("hatte", "hattest", "hatte", "hatten"), "gehabt", "haben", "accusative",
)  # fmt: skip
KNOW_THAT = Verb(
    "know", "knows", "knew", "known", "", "", "", "", "wissen", person_forms("weiß", "weißt", "weiß", "wissen"),
    person_forms("wusste", "wusstest", "wusste", "wussten"), "gewusst", "haben", "accusative",
)  # fmt: skip
# What one says to a friend.
IMPERATIVES = {
    "open": "mach", "close": "mach", "turn/on": "mach", "turn/off": "mach", "call": "ruf", "pick/up": "hol",
    "bring/along": "bring", "throw/away": "wirf", "tidy/up": "räum", "help": "hilf", "invite": "lade",
}  # fmt: skip
