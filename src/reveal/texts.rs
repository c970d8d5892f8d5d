//! Texts of the card page in each language.

use serde::Serialize;
use topup_jobs::Locale;

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Texts {
    pub(super) lang: &'static str,
    pub(super) dir: &'static str,
    pub(super) title: &'static str,
    pub(super) ask: &'static str,
    pub(super) digits: &'static str,
    pub(super) show: &'static str,
    pub(super) once: &'static str,
    pub(super) wrong: &'static str,
    pub(super) left: &'static str,
    pub(super) card_code: &'static str,
    pub(super) num_trans: &'static str,
    pub(super) date_traitement: &'static str,
    pub(super) keep: &'static str,
    pub(super) already_shown: &'static str,
    pub(super) spent: &'static str,
    pub(super) expired: &'static str,
    pub(super) unknown: &'static str,
    pub(super) trouble: &'static str,
}

pub(super) const fn texts(locale: Locale) -> &'static Texts {
    match locale {
        Locale::Fr => &FRENCH,
        Locale::Ar => &ARABIC,
        Locale::En => &ENGLISH,
    }
}

const FRENCH: Texts = Texts {
    lang: "fr",
    dir: "ltr",
    title: "Votre carte internet",
    ask: "Pour voir votre carte, tapez les 4 derniers chiffres du numéro rechargé.",
    digits: "4 derniers chiffres",
    show: "Afficher la carte",
    once: "La carte ne s'affiche qu'une fois : ayez de quoi la noter.",
    wrong: "Ce ne sont pas les derniers chiffres de ce numéro.",
    left: "Essais restants :",
    card_code: "Code de la carte",
    num_trans: "Numéro de transaction",
    date_traitement: "Date de traitement",
    keep: "Notez-les maintenant : cette page ne les montrera plus.",
    already_shown: "Cette carte a déjà été affichée. Si ce n'était pas par vous, prévenez votre vendeur.",
    spent: "Trop d'essais : ce lien est fermé. Adressez-vous à votre vendeur.",
    expired: "Ce lien a expiré. Adressez-vous à votre vendeur.",
    unknown: "Ce lien n'est pas valable. Vérifiez qu'il est complet, ou adressez-vous à votre vendeur.",
    trouble: "La carte ne peut pas être affichée en ce moment. Réessayez dans quelques minutes.",
};

const ARABIC: Texts = Texts {
    lang: "ar",
    dir: "rtl",
    title: "بطاقة الإنترنت الخاصة بك",
    ask: "لعرض بطاقتك، اكتب آخر 4 أرقام من الرقم الذي تمت تعبئته.",
    digits: "آخر 4 أرقام",
    show: "عرض البطاقة",
    once: "تعرض البطاقة مرة واحدة فقط: جهز ما تدونها به.",
    wrong: "هذه ليست آخر أرقام هذا الرقم.",
    left: "المحاولات المتبقية:",
    card_code: "رمز البطاقة",
    num_trans: "رقم المعاملة",
    date_traitement: "تاريخ المعالجة",
    keep: "دونها الآن: لن تعرضها هذه الصفحة مرة أخرى.",
    already_shown: "سبق عرض هذه البطاقة. إن لم تكن أنت من عرضها، فأخبر البائع.",
    spent: "محاولات كثيرة: تم إغلاق هذا الرابط. اتصل بالبائع.",
    expired: "انتهت صلاحية هذا الرابط. اتصل بالبائع.",
    unknown: "هذا الرابط غير صالح. تأكد من أنه كامل، أو اتصل بالبائع.",
    trouble: "لا يمكن عرض البطاقة في هذه اللحظة. أعد المحاولة بعد بضع دقائق.",
};

const ENGLISH: Texts = Texts {
    lang: "en",
    dir: "ltr",
    title: "Your internet card",
    ask: "To see your card, type the last 4 digits of the number that was topped up.",
    digits: "Last 4 digits",
    show: "Show the card",
    once: "The card is shown only once: have something at hand to note it.",
    wrong: "These are not the last digits of that number.",
    left: "Tries left:",
    card_code: "Card code",
    num_trans: "Transaction number",
    date_traitement: "Processed on",
    keep: "Note them now: this page will not show them again.",
    already_shown: "This card has been shown already. If that was not you, tell your seller.",
    spent: "Too many tries: this link is closed. Ask your seller.",
    expired: "This link has expired. Ask your seller.",
    unknown: "This link is not valid. Check that it is complete, or ask your seller.",
    trouble: "The card cannot be shown right now. Try again in a few minutes.",
};
