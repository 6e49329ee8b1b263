"""What a language decides: words between spaces or not, normalization, BLEU's tokenizer, how sentences are joined.

Codes are those of ISO 639-1 and 639-3 (and 639-2/B), with scripts and regions, in either spelling: ``zh``, ``cmn``,
``zho_Hans``, ``zh-Hant-TW``, ``pt_BR``. The script decides; a code without one has the usual script of its
language.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: SentencePiece's normalization rules, the gentlest first.
NORMALIZATIONS = ("identity", "nfkc", "nmt_nfkc")

#: ISO 639-1 codes with those of 639-3, of 639-2/B, of the standard variety, and withdrawn ones.
_ISO_639 = """
aa=aar ab=abk ae=ave af=afr ak=aka am=amh an=arg ar=ara,arb as=asm av=ava ay=aym,ayr az=aze,azj ba=bak be=bel bg=bul
bi=bis bm=bam bn=ben bo=bod,tib br=bre bs=bos ca=cat ce=che ch=cha co=cos cr=cre cs=ces,cze cu=chu cv=chv cy=cym,wel
da=dan de=deu,ger dv=div dz=dzo ee=ewe el=ell,gre en=eng eo=epo es=spa et=est,ekk eu=eus,baq fa=fas,per,pes ff=ful,fuv
fi=fin fj=fij fo=fao fr=fra,fre fy=fry ga=gle gd=gla gl=glg gn=grn,gug gu=guj gv=glv ha=hau he=heb,iw hi=hin ho=hmo
hr=hrv ht=hat hu=hun hy=hye,arm hz=her ia=ina id=ind,in ie=ile ig=ibo ii=iii ik=ipk io=ido is=isl,ice it=ita iu=iku
ja=jpn jv=jav,jw ka=kat,geo kg=kon ki=kik kj=kua kk=kaz kl=kal km=khm kn=kan ko=kor kr=kau,knc ks=kas ku=kur,kmr kv=kom
kw=cor ky=kir la=lat lb=ltz lg=lug li=lim ln=lin lo=lao lt=lit lu=lub lv=lav,lvs mg=mlg,plt mh=mah mi=mri,mao
mk=mkd,mac ml=mal mn=mon,khk mr=mar ms=msa,may,zsm mt=mlt my=mya,bur na=nau nb=nob nd=nde ne=nep,npi ng=ndo nl=nld,dut
nn=nno no=nor nr=nbl nv=nav ny=nya oc=oci oj=oji om=orm,gaz or=ori,ory os=oss pa=pan pi=pli pl=pol ps=pus,pbt pt=por
qu=que,quy rm=roh rn=run ro=ron,rum,mo ru=rus rw=kin sa=san sc=srd sd=snd se=sme sg=sag sh=hbs si=sin sk=slk,slo sl=slv
sm=smo sn=sna so=som sq=sqi,alb,als sr=srp ss=ssw st=sot su=sun sv=swe sw=swa,swh ta=tam te=tel tg=tgk th=tha ti=tir
tk=tuk tl=tgl,fil tn=tsn to=ton tr=tur ts=tso tt=tat tw=twi ty=tah ug=uig uk=ukr ur=urd uz=uzb,uzn ve=ven vi=vie vo=vol
wa=wln wo=wol xh=xho yi=yid,ydd,ji yo=yor za=zha zh=zho,chi,cmn zu=zul
"""
_PRIMARY: dict[str, str] = {}
for _entry in _ISO_639.split():
    _short, _longer = _entry.split("=")
    _PRIMARY |= dict.fromkeys((_short, *_longer.split(",")), _short)
#: Codes of countries and names of languages that are often taken for codes of languages, and the code that is meant.
MISTAKEN_CODES = dict(
    pair.split("=")
    for pair in (
        "cn=zh cz=cs dk=da gr=el il=he ir=fa jp=ja rs=sr tw=zh ua=uk us=en vn=vi chinese=zh mandarin=zh japanese=ja "
        "korean=ko thai=th english=en german=de french=fr spanish=es finnish=fi romanian=ro"
    ).split()
)

#: Characters of scripts that are written without spaces between words, as ranges of a regular expression.
UNSPACED_CHARACTERS = (
    "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WritingSystem:
    """What follows from how a language is written."""

    #: Words stand between spaces. Otherwise each character of a script without spaces counts as a word.
    spaced: bool = True
    #: SentencePiece's rule. ``nmt_nfkc`` turns invisible joiners into spaces; ``nfkc`` keeps them.
    normalization: Literal["identity", "nfkc", "nmt_nfkc"] = "nmt_nfkc"
    #: sacreBLEU's tokenizer.
    bleu_tokenizer: str = "13a"
    #: What stands between two sentences.
    sentence_joiner: str = " "


#: Scripts that differ from the default. NFKC would narrow full-width forms, and take Thai vowels and Korean letters
#: apart; the Arabic and the Indic scripts spell words with invisible joiners.
_UNSPACED = WritingSystem(spaced=False, normalization="identity", bleu_tokenizer="char")
_JOINING = WritingSystem(normalization="nfkc")
_SCRIPTS: dict[str, WritingSystem] = {
    **dict.fromkeys(
        ("hani", "hans", "hant"),
        WritingSystem(spaced=False, normalization="identity", bleu_tokenizer="zh", sentence_joiner=""),
    ),
    **dict.fromkeys(
        ("jpan", "hira", "kana"),
        WritingSystem(spaced=False, normalization="identity", bleu_tokenizer="ja-mecab", sentence_joiner=""),
    ),
    **dict.fromkeys(("kore", "hang"), WritingSystem(normalization="identity", bleu_tokenizer="ko-mecab")),
    **dict.fromkeys(("thai", "laoo", "khmr", "mymr", "tibt"), _UNSPACED),
    **dict.fromkeys(("arab", "beng", "deva", "gujr", "guru", "knda", "mlym", "orya", "sinh", "taml", "telu"), _JOINING),
}
#: Languages whose usual script is one of these.
_USUAL_SCRIPTS = {
    "hani": "zh yue wuu nan hak gan hsn cdo lzh",
    "jpan": "ja",
    "kore": "ko",
    "thai": "th",
    "laoo": "lo",
    "khmr": "km",
    "mymr": "my shn mnw ksw",
    "tibt": "bo dz",
    "arab": "ar arz ary apc ajp acm acq aeb ars fa prs ckb ur ps sd ug ks azb glk mzn lrc pnb",
    "deva": "hi mr ne sa bho mai awa hne mag kok",
    "beng": "bn as",
    "gujr": "gu",
    "guru": "pa",
    "knda": "kn",
    "mlym": "ml",
    "orya": "or",
    "sinh": "si",
    "taml": "ta",
    "telu": "te",
}
_SCRIPT_OF = {language: script for script, languages in _USUAL_SCRIPTS.items() for language in languages.split()}


def language_tag(code: str) -> str:
    """A code in one spelling: ``pt-br`` of ``por_BR``."""
    primary, *rest = code.lower().replace("_", "-").split("-")
    return "-".join((_PRIMARY.get(primary, primary), *rest))


def primary_language(code: str) -> str:
    """The language of a code, by ISO 639-1 where it has such a code: ``zh`` of ``zh-Hant``, ``ZH_tw`` and ``cmn``."""
    return language_tag(code).split("-")[0]


def is_known_language(code: str) -> bool:
    """Whether a code begins as ISO 639 has it. All codes of three letters count: there are 7,900."""
    primary = primary_language(code)
    return primary in _PRIMARY or (len(primary) == 3 and primary.isascii() and primary.isalpha())


def writing_system(code: str) -> WritingSystem:
    """How the language of a code is written."""
    primary, *rest = language_tag(code).split("-")
    script = next((part for part in rest if len(part) == 4 and part.isalpha()), _SCRIPT_OF.get(primary, ""))
    if not script and primary not in _PRIMARY:
        return WritingSystem(spaced=False)  # unknown: words are counted by the characters of the text
    return _SCRIPTS.get(script, WritingSystem())


def are_spaced(languages: tuple[str, str]) -> tuple[bool, bool]:
    """Whether the words of source and target stand between spaces."""
    source, target = languages
    return writing_system(source).spaced, writing_system(target).spaced
