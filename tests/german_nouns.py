"""The cases, and the genders of the demo corpus's nouns, typed independently of its lexicon."""

from __future__ import annotations

from tools.demo_corpus.paradigms import Case

CASES: tuple[Case, ...] = ("nominative", "accusative", "dative", "genitive")

GENDERS = {
    "m": "Mann Junge Lehrer Nachbar Student Gast Vater Bruder Onkel Freund Hund Vogel Brief Apfel Käse Kuchen "
    "Schokoladenkuchen Kaffee Tee Apfelsaft Koffer Mantel Wintermantel Hut Computer Bus Zug Schulbus Tisch Stuhl "
    "Schlüssel Autoschlüssel Regenschirm Garten Park Wald Bahnhof Besitzer",
    "f": "Frau Ärztin Mutter Schwester Tante Katze Kuh Zeitung Suppe Gemüsesuppe Milch Tür Kiste Haustür Jacke Lampe "
    "Waschmaschine Tasche Blume Küche Stadt Bibliothek",
    "n": "Kind Mädchen Pferd Buch Gedicht Bilderbuch Ei Brot Fenster Küchenfenster Kleid Radio Auto Fahrrad Bett Bild "
    "Geschenk Wohnzimmer Zimmer Dorf Museum Haus",
}
GENDER = {noun: gender for gender, nouns in GENDERS.items() for noun in nouns.split()}
